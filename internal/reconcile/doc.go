// Package reconcile is what every reconciler shares: an attempt is a literal list of named steps over one struct; one loop
// runs them, times them, logs them and stops at the first fault; one writer turns the outcome into status, an event, a log
// line and a requeue.
package reconcile
