package failover

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// sentinelName is the ConfigMap whose change comes after all others for the watch, which tells of changes in their order.
const sentinelName = "sentinel"

// Verdict is what has become of a round.
type Verdict struct {
	Lost    []string // objects that do not have what the round was to bring
	Twice   []string // objects that have changed more than once, and releases that were upgraded more than once
	Stuck   []string // releases that are pending, or whose newest revision is not the deployed one
	Unlocks int      // upgrades that were cut off, marked as failed by the successor, and done anew
	// Repeated are upgrades that the old leader had ended and not told of in the status, and that the successor did again. Nothing
	// changes on the cluster by that but Helm's history; a chart's hooks run again.
	Repeated int
}

// OK says that nothing is wrong on the cluster: no upgrade that was unlocked or repeated has changed an object again.
func (v Verdict) OK() bool { return len(v.Lost)+len(v.Twice)+len(v.Stuck) == 0 }

func (v Verdict) String() string {
	return fmt.Sprintf("lost %v, twice %v, stuck %v, %d upgrades done anew, %d repeated", v.Lost, v.Twice, v.Stuck, v.Unlocks, v.Repeated)
}

// seen counts a change of a ConfigMap.
func (w *Work) seen(obj *unstructured.Unstructured) {
	w.mu.Lock()
	defer w.mu.Unlock()
	name, version := obj.GetName(), obj.GetResourceVersion()
	if name == sentinelName && text(obj, "data", "flush") == fmt.Sprint(w.flushes) && w.flushed != nil {
		close(w.flushed)
		w.flushed = nil
	}
	if _, ours := w.configMaps()[name]; !ours || w.versions[name] == version {
		return
	}
	w.versions[name] = version
	w.changes[name]++
	if was := w.uids[name]; was != "" && was != obj.GetUID() {
		w.changes[name]++ // it was deleted before it was made again
	}
	w.uids[name] = obj.GetUID()
	if len(w.changes) == w.enough && w.reached != nil {
		close(w.reached)
		w.reached = nil
	}
}

// Changed is how many ConfigMaps have changed in this round so far, of how many.
func (w *Work) Changed() (changed, all int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.changes), len(w.configMaps())
}

// remember keeps how the releases are before a round.
func (w *Work) remember(ctx context.Context) error {
	records, err := w.records(ctx)
	if err != nil {
		return err
	}
	w.before = map[string]int{}
	for name, revisions := range records {
		w.before[name] = slices.Max(slices.Collect(maps.Keys(revisions)))
	}
	w.workers, err = w.generations(ctx)
	return err
}

// Judge says what has become of the round when it is done.
func (w *Work) Judge(ctx context.Context) (Verdict, error) {
	if err := w.flush(ctx); err != nil {
		return Verdict{}, err
	}
	var v Verdict
	if err := w.judgeConfigMaps(ctx, &v); err != nil {
		return v, err
	}
	generations, err := w.generations(ctx)
	if err != nil {
		return v, err
	}
	for name, was := range w.workers {
		switch now := generations[name]; {
		case now <= was:
			v.Lost = append(v.Lost, "Deployment/"+name)
		case now > was+1:
			v.Twice = append(v.Twice, fmt.Sprintf("Deployment/%s (%d times)", name, now-was))
		}
	}
	records, err := w.records(ctx)
	if err != nil {
		return v, err
	}
	for name, was := range w.before {
		v.judgeRelease(name, was, records[name])
	}
	for _, list := range [][]string{v.Lost, v.Twice, v.Stuck} {
		slices.Sort(list)
	}
	return v, nil
}

// flush waits until everything that has happened was counted.
func (w *Work) flush(ctx context.Context) error {
	seen := make(chan struct{})
	w.mu.Lock()
	w.flushed = seen
	w.flushes++
	sentinel := fmt.Appendf(nil, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {flush: \"%d\"}\n", sentinelName, w.flushes)
	w.mu.Unlock()
	if _, err := w.cluster.Apply(ctx, sentinel, w.namespace); err != nil {
		return err
	}
	select {
	case <-seen:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the watch to tell of the round's end: %w", ctx.Err())
	}
}

func (w *Work) judgeConfigMaps(ctx context.Context, v *Verdict) error {
	all, err := w.cluster.List(ctx, "configmaps", w.namespace, "")
	if err != nil {
		return err
	}
	there := map[string]*unstructured.Unstructured{}
	for i := range all {
		there[all[i].GetName()] = &all[i]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, field := range w.configMaps() {
		if got := text(there[name], "data", field); got != fmt.Sprint(w.round) {
			v.Lost = append(v.Lost, fmt.Sprintf("ConfigMap/%s (of round %q)", name, got))
		}
		if n := w.changes[name]; n > 1 {
			v.Twice = append(v.Twice, fmt.Sprintf("ConfigMap/%s (%d times)", name, n))
		}
	}
	return nil
}

// judgeRelease judges the upgrade of one release, which had a newest revision before. One that was cut off may be the failed revision
// before the one that is deployed.
func (v *Verdict) judgeRelease(name string, was int, revisions map[int]string) {
	newest := was
	for revision, status := range revisions {
		newest = max(newest, revision)
		if strings.HasPrefix(status, "pending-") || status == "uninstalling" {
			v.Stuck = append(v.Stuck, fmt.Sprintf("release %s (revision %d is %s)", name, revision, status))
		}
	}
	if revisions[newest] != "deployed" {
		v.Stuck = append(v.Stuck, fmt.Sprintf("release %s (the newest revision, %d, is %s)", name, newest, revisions[newest]))
	}
	switch {
	case newest == was:
		v.Lost = append(v.Lost, "release "+name)
	case newest == was+2 && revisions[was+1] == "failed":
		v.Unlocks++
	case newest == was+2 && revisions[was+1] == "superseded":
		v.Repeated++
	case newest > was+1:
		v.Twice = append(v.Twice, fmt.Sprintf("release %s (%d times: %v)", name, newest-was, revisions))
	}
}

// records returns the status of each revision of each release, by its name.
func (w *Work) records(ctx context.Context) (map[string]map[int]string, error) {
	secrets, err := w.cluster.List(ctx, "secrets", w.namespace, "owner=helm")
	if err != nil {
		return nil, err
	}
	records := map[string]map[int]string{}
	for i := range secrets {
		labels := secrets[i].GetLabels()
		revision, err := strconv.Atoi(labels["version"])
		if err != nil {
			return nil, fmt.Errorf("Secret %s: %w", secrets[i].GetName(), err)
		}
		if records[labels["name"]] == nil {
			records[labels["name"]] = map[int]string{}
		}
		records[labels["name"]][revision] = labels["status"]
	}
	return records, nil
}

// generations returns that of each release's Deployment.
func (w *Work) generations(ctx context.Context) (map[string]int64, error) {
	deployments, err := w.cluster.List(ctx, "deployments", w.namespace, "")
	if err != nil {
		return nil, err
	}
	generations := map[string]int64{}
	for i := range deployments {
		generations[deployments[i].GetName()] = deployments[i].GetGeneration()
	}
	return generations, nil
}
