// Package agent is the program: its flags, the graph of its objects, and how they start and stop. It is the only package
// that sees all others; end-to-end tests drive it in process through Run.
package agent
