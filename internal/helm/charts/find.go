package charts

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"helm.sh/helm/v3/pkg/chart"

	"github.com/cleat-dev/cleat/internal/chartfile"
)

// find reads the chart in an artifact:
//
//	/Chart.yaml                  the chart is unpacked here
//	/FOLDER/Chart.yaml           the chart is unpacked in the only folder that has one
//	/FILE                        the only file is a packaged chart, whatever its name
func find(files fs.FS, limits chartfile.Limits) (*chart.Chart, error) {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, err
	}
	var folders, archives []string
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case name == chartfile.Name && !entry.IsDir():
			return limits.Unpacked(files, ".")
		case entry.IsDir():
			if info, err := fs.Stat(files, path.Join(name, chartfile.Name)); err == nil && info.Mode().IsRegular() {
				folders = append(folders, name)
			}
		case entry.Type().IsRegular() && (len(entries) == 1 || strings.HasSuffix(name, ".tgz") || strings.HasSuffix(name, ".tar.gz")):
			archives = append(archives, name)
		}
	}
	switch {
	case len(folders) == 1:
		return limits.Unpacked(files, folders[0])
	case len(folders) > 1:
		return nil, fmt.Errorf("%w: the artifact holds several, in the folders %s", chartfile.ErrInvalid, strings.Join(folders, ", "))
	case len(archives) == 1:
		data, err := chartfile.ReadFile(files, archives[0], limits.Archive)
		if err != nil {
			return nil, err
		}
		return limits.Load(data)
	case len(archives) > 1:
		return nil, fmt.Errorf("%w: the artifact holds several: %s", chartfile.ErrInvalid, strings.Join(archives, ", "))
	}
	return nil, fmt.Errorf("%w: the artifact holds neither a %s nor a packaged chart", chartfile.ErrInvalid, chartfile.Name)
}

// discardRaw lets go of the second list of the same files, from which only packaging is done.
func discardRaw(c *chart.Chart) {
	c.Raw = nil
	for _, inner := range c.Dependencies() {
		discardRaw(inner)
	}
}
