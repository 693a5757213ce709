// Package charts holds the charts that releases are made of, by the digest of the artifact they came in.
//
// A chart is read and parsed once, however many releases there are of it, and is never changed afterwards: who needs one to
// change, as every action of Helm's SDK does, takes a copy, which shares the contents of the files.
package charts
