package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/live"
)

const (
	perKustomization = 500
	driftedObjects   = 200
	// noise is how often a second the status of one object changes, for noiseFor.
	noise    = 50
	noiseFor = 20 * time.Second
	// fightFor is how long another controller undoes each correction.
	fightFor = 2 * time.Minute
)

// manifests are an object of each kind, by what kubectl calls it.
var driftKinds = []struct{ resource, manifest string }{
	{"configmaps", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: o-%[1]d, labels: {team: shop}}\ndata: {a: x, b: \"%[1]d\"}\n"},
	{"secrets", "apiVersion: v1\nkind: Secret\nmetadata: {name: o-%[1]d, labels: {team: shop}}\nstringData: {password: p%[1]d}\n"},
	{"serviceaccounts", "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: o-%[1]d, labels: {team: shop}}\n"},
	{"services", "apiVersion: v1\nkind: Service\nmetadata: {name: o-%[1]d, labels: {team: shop}}\nspec: {clusterIP: None, selector: {app: o}, ports: [{name: http, port: 80, targetPort: http}]}\n"},
	{"deployments", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: o-%[1]d, labels: {team: shop}}\nspec: {replicas: 0, selector: {matchLabels: {app: o-%[1]d}}, template: {metadata: {labels: {app: o-%[1]d}}, spec: {containers: [{name: app, image: \"example.com/app:%[1]d\", ports: [{containerPort: 80}], resources: {requests: {cpu: 10m}}}]}}}\n"},
	{"roles", "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: o-%[1]d, labels: {team: shop}}\nrules: [{apiGroups: [\"\"], resources: [pods], verbs: [get, list]}]\n"},
	{"networkpolicies", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: o-%[1]d, labels: {team: shop}}\nspec: {podSelector: {matchLabels: {app: o}}, ingress: [{ports: [{port: 80}]}]}\n"},
}

func driftRef(i int) live.Ref {
	return live.Ref{Kind: driftKinds[i%len(driftKinds)].resource, Namespace: namespace, Name: fmt.Sprintf("o-%d", i)}
}

// driftOf measures how long it takes until what somebody has changed or deleted by hand is as declared, and what it costs to look
// after all that nobody touches.
//
// What an object takes in memory is the difference that the second half of the objects makes: with the first come caches of a
// fixed size, that of the last runs of the kustomize library above all.
func driftOf(ctx context.Context, w *world) error {
	groups := (w.objects + perKustomization - 1) / perKustomization
	commit, err := w.driftRepository(groups)
	if err != nil {
		return err
	}
	if err := w.installDrift(ctx, commit, 0, groups/2); err != nil {
		return err
	}
	half, err := w.heap(ctx)
	if err != nil {
		return err
	}
	if err := w.installDrift(ctx, commit, groups/2, groups); err != nil {
		return err
	}
	whole, err := w.heap(ctx)
	if err != nil {
		return err
	}
	fmt.Printf("%-60s %7.0f bytes an object: status, inventory, observation and what is declared\n", "heap",
		(whole-half)/float64(w.objects-groups/2*perKustomization))
	for _, part := range []func(context.Context) error{w.idle, w.corrections, w.noise, w.fight} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// isRelease says whether a group of objects is a HelmRelease: each fifth. The others are Kustomizations.
func isRelease(group int) bool { return group%5 == 4 }

// driftRepository makes the repository, a folder for each Kustomization, and one with a chart for each HelmRelease.
func (w *world) driftRepository(groups int) (commit string, err error) {
	var files strings.Builder
	for g := range groups {
		if isRelease(g) {
			fmt.Fprintf(&files, "-- g-%[1]d/Chart.yaml --\napiVersion: v2\nname: g-%[1]d\nversion: 1.0.0\n-- g-%[1]d/templates/objects.yaml --\n", g)
		} else {
			fmt.Fprintf(&files, "-- g-%d/objects.yaml --\n", g)
		}
		for i := g * perKustomization; i < min((g+1)*perKustomization, w.objects); i++ {
			fmt.Fprintf(&files, driftKinds[i%len(driftKinds)].manifest+"---\n", i)
		}
	}
	_, commit, err = w.repository(files.String())
	return commit, err
}

// installDrift has the groups from to to applied.
func (w *world) installDrift(ctx context.Context, commit string, from, to int) error {
	ctx, cancel := context.WithTimeout(ctx, scenarioTimeout)
	defer cancel()
	l, err := w.lap()
	if err != nil {
		return err
	}
	var manifests strings.Builder
	releases := 0
	for g := range to {
		if isRelease(g) {
			releases++
		}
	}
	for g := from; g < to; g++ {
		if isRelease(g) {
			fmt.Fprintf(&manifests, "---\napiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: g-%[1]d}\n"+
				"spec: {interval: 1h, timeout: 10m, chart: {spec: {chart: ./g-%[1]d, sourceRef: {kind: GitRepository, name: shop}}}, driftDetection: {mode: enabled}, install: {disableWait: true}}\n", g)
			continue
		}
		fmt.Fprintf(&manifests, "---\napiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: g-%[1]d}\n"+
			"spec: {interval: 1h, timeout: 10m, path: ./g-%[1]d, prune: true, targetNamespace: %[2]s, sourceRef: {kind: GitRepository, name: shop}}\n", g, namespace)
	}
	if err := w.apply(ctx, &manifests); err != nil {
		return err
	}
	if err := w.cluster.UntilAll(ctx, "kustomizations", namespace, to-releases, live.ReadyAt(commit)); err != nil {
		return err
	}
	if releases > 0 {
		if err := w.cluster.UntilAll(ctx, "helmreleases", namespace, releases, live.Ready); err != nil {
			return err
		}
	}
	return l.report(fmt.Sprintf("objects of %d groups of %d applied, each fifth a HelmRelease", to-from, perKustomization))
}

// idle measures a minute in which nothing happens.
func (w *world) idle(ctx context.Context) error {
	l, err := w.lap()
	if err != nil {
		return err
	}
	if err := pause(ctx, time.Minute); err != nil {
		return err
	}
	return l.report("an idle minute")
}

// pause lets time pass.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// corrections edits and deletes objects of all kinds, one after the other.
func (w *world) corrections(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, scenarioTimeout)
	defer cancel()
	l, err := w.lap()
	if err != nil {
		return err
	}
	mark, err := w.auditEnd()
	if err != nil {
		return err
	}
	n := min(driftedObjects, w.objects)
	for k := range n {
		if err := w.breakOne(ctx, driftRef(k*(w.objects/n)), k%2 == 0); err != nil {
			return err
		}
	}
	if err := l.report(fmt.Sprintf("%d objects of %d kinds edited or deleted, one by one", n, len(driftKinds))); err != nil {
		return err
	}
	took, err := w.corrected(ctx, mark, n)
	if err != nil {
		return err
	}
	fmt.Printf("%-60s %s p50, %s p99, %s at most, by the API server's clock\n", "from the edit's answer to the correction's", quantile(took, 50), quantile(took, 99), took[len(took)-1])
	return nil
}

// breakOne edits or deletes an object and waits until it is as declared.
func (w *world) breakOne(ctx context.Context, ref live.Ref, edit bool) error {
	was, err := w.cluster.Get(ctx, ref)
	if err != nil {
		return err
	}
	if edit {
		err = w.cluster.Patch(ctx, ref, `{"metadata":{"labels":{"team":"hacked"}}}`)
	} else {
		err = w.cluster.Delete(ctx, ref)
	}
	if err != nil {
		return err
	}
	_, err = w.cluster.Until(ctx, ref, func(obj *unstructured.Unstructured) bool {
		return obj != nil && obj.GetLabels()["team"] == "shop" && (edit || obj.GetUID() != was.GetUID())
	})
	return err
}

// noise has the status of one object change all the time, and takes off what the agent needs without that.
func (w *world) noise(ctx context.Context) error {
	if err := pause(ctx, 15*time.Second); err != nil { // what was corrected before has been told by then
		return err
	}
	quiet, err := w.coreFor(ctx, func(ctx context.Context) error { return pause(ctx, noiseFor) })
	if err != nil {
		return err
	}
	changes := 0
	noisy, err := w.coreFor(ctx, func(ctx context.Context) (err error) {
		changes, err = w.change(ctx)
		return err
	})
	if err != nil {
		return err
	}
	fmt.Printf("%-60s %7.2f %% of a core more than the %.2f %% without\n", fmt.Sprintf("the status of one object changes %d times in %s", changes, noiseFor),
		noisy-quiet, quiet)
	return nil
}

// coreFor returns how many percent of a core the agent takes while do lasts.
func (w *world) coreFor(ctx context.Context, do func(context.Context) error) (percent float64, err error) {
	l, err := w.lap()
	if err != nil {
		return 0, err
	}
	if err := do(ctx); err != nil {
		return 0, err
	}
	cpu, err := w.agent.CPU()
	return 100 * (cpu - l.cpu).Seconds() / time.Since(l.began).Seconds(), err
}

// change changes the status of one object for noiseFor, and returns how often.
func (w *world) change(ctx context.Context) (changes int, err error) {
	noisy := driftRef(3) // a Service: nobody else answers to a change of its status
	ctx, stop := context.WithTimeout(ctx, noiseFor)
	defer stop()
	tick := time.NewTicker(time.Second / noise)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return changes, nil
		case <-tick.C:
			changes++
			err := w.cluster.PatchStatus(ctx, noisy, fmt.Sprintf(`{"status":{"conditions":[{"type":"Noisy","status":"True","reason":"Noise","message":"%d","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`, changes))
			if err != nil && ctx.Err() == nil {
				return changes, err
			}
		}
	}
}

// fight has somebody undo each correction of one object.
func (w *world) fight(ctx context.Context) error {
	mark, err := w.auditEnd()
	if err != nil {
		return err
	}
	ref := driftRef(0)
	ctx, stop := context.WithCancel(ctx)
	var undoing sync.WaitGroup
	var undoErr error
	undoing.Go(func() {
		for ctx.Err() == nil {
			_, err := w.cluster.Until(ctx, ref, func(obj *unstructured.Unstructured) bool { return obj != nil && obj.GetLabels()["team"] == "shop" })
			if err == nil {
				err = w.cluster.Patch(ctx, ref, `{"metadata":{"labels":{"team":"hacked"}}}`)
			}
			if err != nil && ctx.Err() == nil {
				undoErr = err
				return
			}
		}
	})
	began := time.Now()
	_, err = w.cluster.Until(ctx, live.Ref{Kind: "kustomizations", Namespace: namespace, Name: "g-0"}, live.Condition("Drifted", "True", "Contested"))
	if err == nil {
		fmt.Printf("%-60s %7.2f s\n", "somebody undoes each correction: told as Contested after", time.Since(began).Seconds())
		err = pause(ctx, fightFor)
	}
	stop()
	undoing.Wait()
	if err := errors.Join(err, undoErr); err != nil {
		return err
	}
	writes, err := w.audited(mark)
	if err != nil {
		return err
	}
	early, late := 0, 0
	for _, r := range writes {
		if r.agent && r.name == ref.Name && r.resource == ref.Kind {
			if r.at.Sub(began) < time.Minute {
				early++
			} else {
				late++
			}
		}
	}
	fmt.Printf("%-60s %7d in the first minute, %d in the %.1f minutes after\n", "corrections", early, late, time.Since(began).Minutes()-1)
	return nil
}

// write is a write on record in the API server's audit log.
type write struct {
	agent, delete  bool
	resource, name string
	at             time.Time // of the answer
}

func (w *world) auditEnd() (int64, error) {
	info, err := os.Stat(w.audit)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// audited returns the writes in the scenario's namespace, but for dry-runs, since a place in the log.
func (w *world) audited(since int64) ([]write, error) {
	f, err := os.Open(w.audit)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(since, io.SeekStart); err != nil {
		return nil, err
	}
	var writes []write
	for lines := bufio.NewReader(f); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return writes, nil
		}
		if err != nil {
			return nil, err
		}
		var event struct {
			Verb, RequestURI, UserAgent string
			ObjectRef                   struct{ Resource, Subresource, Namespace, Name string }
			ResponseStatus              struct{ Code int }
			StageTimestamp              time.Time
		}
		if err := json.Unmarshal(bytes.TrimSpace(line), &event); err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		ref := event.ObjectRef
		if ref.Namespace != namespace || ref.Subresource != "" || event.ResponseStatus.Code >= 300 || strings.Contains(event.RequestURI, "dryRun=") ||
			!slices.Contains([]string{"create", "update", "patch", "delete"}, event.Verb) {
			continue
		}
		writes = append(writes, write{
			agent: strings.HasPrefix(event.UserAgent, "cleat/"), delete: event.Verb == "delete",
			resource: ref.Resource, name: ref.Name, at: event.StageTimestamp,
		})
	}
}

// corrected returns, sorted, how long after each of n edits or deletions the correction was answered.
func (w *world) corrected(ctx context.Context, since int64, n int) ([]time.Duration, error) {
	for { // the log follows the answers by a moment, and there is nothing to watch on a file
		writes, err := w.audited(since)
		if err != nil {
			return nil, err
		}
		broken, last := map[string]time.Time{}, map[string]time.Time{}
		for _, r := range writes {
			key := r.resource + "/" + r.name
			switch {
			case !r.agent && strings.HasPrefix(r.name, "o-"):
				if _, ok := broken[key]; !ok {
					broken[key] = r.at
				}
			case r.agent && !broken[key].IsZero():
				last[key] = r.at // of what clears traces off and what applies, the latter
			}
		}
		if len(last) >= n {
			var took []time.Duration
			for key, at := range last {
				took = append(took, max(0, at.Sub(broken[key])).Round(100*time.Microsecond))
			}
			slices.Sort(took)
			return took, nil
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return nil, fmt.Errorf("the audit log holds %d of %d corrections: %w", len(last), n, err)
		}
	}
}

func quantile(sorted []time.Duration, percent int) time.Duration {
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)]
}

// heap returns the bytes that the agent's last garbage collection has found in use: half of the size at which the next one
// begins. It waits for one.
func (w *world) heap(ctx context.Context) (float64, error) {
	_, before, err := w.collected(ctx)
	if err != nil {
		return 0, err
	}
	for { // the runtime collects every two minutes at the latest; the first may have begun before
		live, count, err := w.collected(ctx)
		if err != nil || count > before+1 {
			return live, err
		}
		if err := pause(ctx, time.Second); err != nil {
			return 0, err
		}
	}
}

func (w *world) collected(ctx context.Context) (live, count float64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.metrics, nil)
	if err != nil {
		return 0, 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, 0, err
	}
	defer resp.Body.Close()
	for scan := bufio.NewScanner(resp.Body); scan.Scan(); {
		name, value, _ := strings.Cut(scan.Text(), " ")
		number, _ := strconv.ParseFloat(value, 64)
		switch name {
		case "go_memstats_next_gc_bytes":
			live = number / 2
		case "go_gc_duration_seconds_count":
			count = number
		}
	}
	if live == 0 {
		return 0, 0, errors.New("the metrics do not tell the heap")
	}
	return live, count, nil
}
