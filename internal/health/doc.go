// Package health turns an object into its health: by kstatus, or as a Judge by the expressions of spec.healthCheckExprs. It is
// pure: the same object has the same health.
package health
