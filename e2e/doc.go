// Package e2e holds the end-to-end tests: scripts in testdata/script, whose first line says what each proves, and the few
// tests that no script can hold. They run against the cluster that E2E_KUBECONFIG names, or against the embedded control
// plane (`make cluster`), and start an agent each, in this process, for a namespace of their own.
package e2e
