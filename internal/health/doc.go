// Package health turns an object into its health. It is pure: the same object has the same health.
package health
