package helm

import (
	"slices"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"helm.sh/helm/v3/pkg/action"
	helmrelease "helm.sh/helm/v3/pkg/release"

	"github.com/cleat-dev/cleat/internal/helm/storage"
)

// test runs the release's test hooks.
func (j *job) test() error {
	spec := j.hr.GetTest()
	config, err := j.configure(j.newest.Method, nil, nil)
	if err != nil {
		return err
	}
	t := action.NewReleaseTesting(config)
	t.Namespace = j.target.Namespace
	t.Timeout = spec.GetTimeout(j.hr.GetTimeout()).Duration
	for _, filter := range spec.GetFilters() {
		by := action.IncludeNameFilter
		if filter.Exclude {
			by = action.ExcludeNameFilter
		}
		t.Filters[by] = append(t.Filters[by], filter.Name)
	}
	rel, err := t.Run(j.target.Name)
	if err == nil || rel != nil && !j.blameless() {
		j.hooks = selected(rel, t.Filters)
	}
	j.more = hooksRun(len(j.hooks))
	return err
}

// selected returns the results of those hooks that the filters have let run.
func selected(rel *helmrelease.Release, filters map[string][]string) map[string]*v2.TestHookStatus {
	hooks := storage.TestHooks(rel)
	for name := range hooks {
		included := len(filters[action.IncludeNameFilter]) == 0 || slices.Contains(filters[action.IncludeNameFilter], name)
		if !included || slices.Contains(filters[action.ExcludeNameFilter], name) {
			delete(hooks, name)
		}
	}
	return hooks
}

// tested is what the history has of the release that was tested.
func (j *job) tested() map[int]*v2.Snapshot {
	snapshot := storage.Snapshot(j.newest.Release, j.ociDigestOf(j.newest.Version), "")
	if latest := j.history.Latest(); latest.Targets(snapshot.Name, snapshot.Namespace, snapshot.Version) {
		snapshot.Action = latest.Action
	}
	snapshot.SetTestHooks(j.hooks)
	return map[int]*v2.Snapshot{snapshot.Version: snapshot}
}
