// Package chartfile reads a chart from a packaged archive or from a directory, within limits.
//
// It is where bytes that anybody may have written become a chart: what is too large, nested too deeply, named to lead out of
// the chart, or linked, is refused before Helm's own loader sees it.
package chartfile
