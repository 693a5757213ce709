// Package render makes the manifests of a release: it renders the templates of a chart, post-renders what they give, and puts
// that into a chart of literal text, which Helm's SDK passes through unchanged.
//
// The templates of a chart are a program that somebody else has written, and Go's text/template cannot be stopped. So they are
// not given to the SDK. They are parsed here, once for all releases of a chart, and a node is inserted where a body begins that
// can be run more than once; it counts the work, and ends the rendering when there is too much of it (faults.md A14). Functions
// that make something large out of something small are bounded, and those that read what is outside the chart are absent (A15).
// What is within the limits comes out as from Helm's own engine, byte for byte.
package render
