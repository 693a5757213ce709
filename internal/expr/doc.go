// Package expr runs the CEL expressions that users write, within limits of length, work and time. It is pure: the same
// expression says the same about the same values.
package expr
