package helm

import "github.com/cleat-dev/cleat/internal/chartfile"

// Limits bound what is taken from others; the agent's flags set them.
type Limits struct {
	Index int64 // bytes of an index (--helm-index-max-size)
	Chart int64 // bytes of a packaged chart (--helm-chart-max-size)
	File  int64 // bytes of one file in a chart (--helm-chart-file-max-size)
}

// DefaultLimits are Flux's.
var DefaultLimits = Limits{Index: 50 << 20, Chart: chartfile.DefaultLimits.Archive, File: chartfile.DefaultLimits.File}

// files are the limits of reading a chart.
func (l Limits) files() chartfile.Limits { return chartfile.Limits{Archive: l.Chart, File: l.File} }

const (
	lockFile   = "Chart.lock"
	valuesFile = "values.yaml"
	chartsDir  = "charts/"
)
