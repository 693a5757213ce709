package e2e_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/e2e/live"
	"github.com/cleat-dev/cleat/e2e/testenv"
)

const (
	killedSource = `
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: charts}
spec: {interval: 1h, url: %s, ref: {branch: main}}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: HelmChart
metadata: {name: app}
spec: {interval: 1h, chart: app, sourceRef: {kind: GitRepository, name: charts}}
`
	killedRelease = `
apiVersion: helm.toolkit.fluxcd.io/v2
kind: HelmRelease
metadata: {name: %s}
spec:
  interval: 1h
  chartRef: {kind: HelmChart, name: app}
  upgrade: {remediation: {%s}}
  values: {replicas: 0, text: "%d", hookFails: %q}
`
)

// TestF13_KilledWhileInstallingARelease kills the agent with SIGKILL at the first, second, … write of the installation of a release,
// until it gets through alive, and holds each time: what is on the cluster is in Helm's records at the moment of death, and the
// next agent completes the work, though no retries are asked for.
func TestF13_KilledWhileInstallingARelease(t *testing.T) {
	eachDeath(t, func(v *releaseVictim, n int, when testenv.FailPoint) {
		v.name = fmt.Sprintf("app%d", n)
		v.round(n, when, func() { v.release(n, "") }, live.Ready)
		v.checkDeployed(n)
	})
}

// TestF13_KilledWhileUpgradingARelease does the same for upgrades, and holds in addition that nothing is made anew.
func TestF13_KilledWhileUpgradingARelease(t *testing.T) {
	eachDeath(t, func(v *releaseVictim, n int, when testenv.FailPoint) {
		if n == 1 {
			v.release(0, "")
			v.until(live.Ready, nil)
		}
		kept := v.uids()
		v.round(n, when, func() { v.release(n, "") }, live.Ready)
		v.checkDeployed(n)
		v.checkKept(kept)
	})
}

// TestF13_KilledWhileRollingBackARelease does the same for an upgrade that fails, by a hook after everything was changed, and is rolled
// back.
func TestF13_KilledWhileRollingBackARelease(t *testing.T) {
	eachDeath(t, func(v *releaseVictim, n int, when testenv.FailPoint) {
		v.release(0, "")
		v.until(live.Ready, nil)
		kept := v.uids()
		v.round(n, when, func() { v.release(n, "post-upgrade") }, rolledBack)
		v.checkDeployed(0)
		v.checkKept(kept)
	})
}

// TestF14_KilledWhileUninstallingARelease does the same for deletions.
func TestF14_KilledWhileUninstallingARelease(t *testing.T) {
	eachDeath(t, func(v *releaseVictim, n int, when testenv.FailPoint) {
		v.name = fmt.Sprintf("app%d", n)
		v.release(n, "")
		v.until(live.Ready, nil)
		gone := func(obj *unstructured.Unstructured) bool { return obj == nil }
		v.round(n, when, func() {
			if err := v.cluster.Delete(t.Context(), v.ref("hr")); err != nil {
				t.Fatal(err)
			}
		}, gone)
		if left := append(v.objects(), v.records("")...); len(left) > 0 {
			t.Errorf("the HelmRelease is gone, and %v are left", left)
		}
	})
}

// TestF17_OutageWhileUpgradingARelease has the API server refuse all writes from the first, second, … write of an upgrade on, for a while, and
// holds that nothing is uninstalled or rolled back for it, whatever remediation is asked for, and that the upgrade is done afterwards.
func TestF17_OutageWhileUpgradingARelease(t *testing.T) {
	for _, status := range []int{http.StatusInternalServerError, http.StatusServiceUnavailable} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			v := newReleaseVictim(t)
			v.remediation = "strategy: uninstall, remediateLastFailure: true"
			v.release(0, "")
			v.until(live.Ready, nil)
			kept := v.uids()
			for n := 1; n <= moreWrites; n++ {
				tripped := v.proxy.Outage(n, status)
				v.release(n, "")
				v.until(live.Ready, tripped)
				writes, refused := v.proxy.Disarm()
				v.until(live.Ready, nil)
				v.checkDeployed(n)
				v.checkKept(kept)
				if t.Failed() {
					t.Fatalf("with an outage from write %d on, %s", n, writes[len(writes)-1])
				}
				if !refused {
					t.Logf("it takes %d writes:\n%s", len(writes), strings.Join(writes, "\n"))
					return
				}
			}
			t.Errorf("still writing after %d writes", moreWrites)
		})
	}
}

// eachDeath does work with an agent that dies before, or after, its nth write, for every n until it survives.
func eachDeath(t *testing.T, work func(v *releaseVictim, n int, when testenv.FailPoint)) {
	t.Helper()
	for _, when := range []testenv.FailPoint{testenv.BeforeWrite, testenv.AfterWrite} {
		t.Run(string(when), func(t *testing.T) {
			t.Parallel()
			v := newReleaseVictim(t)
			for n := 1; n <= moreWrites; n++ {
				work(v, n, when)
				if t.Failed() {
					return // Further deaths would say the same.
				}
				if !v.killed {
					t.Logf("it takes %d writes:\n%s", len(v.writes), strings.Join(v.writes, "\n"))
					return
				}
			}
			t.Errorf("still writing after %d writes", moreWrites)
		})
	}
}

// releaseVictim is a victim with a HelmRelease.
type releaseVictim struct {
	*victim
	name        string
	remediation string // of upgrades
}

// newReleaseVictim returns one whose chart has been fetched, so that no write is about that.
func newReleaseVictim(t *testing.T) *releaseVictim {
	t.Helper()
	repo := create(t, testenv.Git(t), "charts")
	commit, err := repo.Commit(os.DirFS("testdata/charts"), "charts")
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.Push(false); err != nil {
		t.Fatal(err)
	}
	v := &releaseVictim{victim: newVictim(t, testenv.Shared(t)), name: "app", remediation: "remediateLastFailure: true"}
	v.apply(fmt.Sprintf(killedSource, repo.URL))
	v.await("helmcharts", func(obj *unstructured.Unstructured) bool {
		return live.Ready(obj) && strings.HasSuffix(field(obj, "{.status.observedSourceArtifactRevision}"), commit)
	}, nil)
	return v
}

// round triggers work, kills the agent at its nth write, starts it again when it was killed, and waits until done holds.
func (v *releaseVictim) round(n int, when testenv.FailPoint, trigger func(), done func(*unstructured.Unstructured) bool) {
	v.t.Helper()
	tripped := v.proxy.Arm(n, when, v.agent.Kill)
	trigger()
	v.until(done, tripped)
	v.writes, v.killed = v.proxy.Disarm()
	if !v.killed {
		return
	}
	v.t.Logf("killed %s write %d, %s", when, n, v.writes[n-1])
	if objects := v.objects(); len(objects) > 0 && len(v.records("")) == 0 {
		v.t.Errorf("%v are on the cluster, and Helm has no record of them", objects)
	}
	v.startAgent()
	v.until(done, nil)
}

// rolledBack holds for a HelmRelease that has given up a failed upgrade. An agent that died between the rollback and the word of it
// leaves the next one to find that there is nothing to do, and to say of the upgrade only that it failed.
func rolledBack(obj *unstructured.Unstructured) bool {
	return live.Condition("Ready", "False", "")(obj) && live.Condition("Stalled", "True", "RetriesExceeded")(obj)
}

func (v *releaseVictim) ref(kind string) live.Ref {
	return live.Ref{Kind: kind, Namespace: v.namespace, Name: v.name}
}

func (v *releaseVictim) release(text int, hookFails string) {
	v.t.Helper()
	v.apply(fmt.Sprintf(killedRelease, v.name, v.remediation, text, hookFails))
}

func (v *releaseVictim) until(done func(*unstructured.Unstructured) bool, tripped <-chan struct{}) {
	v.t.Helper()
	v.await("hr", done, tripped)
}

// await waits until the object of that kind satisfies done, or until the agent is killed.
func (v *releaseVictim) await(kind string, done func(*unstructured.Unstructured) bool, tripped <-chan struct{}) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := v.cluster.Until(ctx, v.ref(kind), done)
		ended <- err
	}()
	select {
	case <-tripped:
		cancel()
		<-ended
	case err := <-ended:
		if err != nil {
			v.t.Fatal(err)
		}
	}
}

// checkDeployed fails the test unless the release says a text, by one record that is deployed, and none is in the middle.
func (v *releaseVictim) checkDeployed(text int) {
	v.t.Helper()
	cm, err := v.cluster.Get(v.t.Context(), v.ref("configmaps"))
	if err != nil {
		v.t.Fatal(err)
	}
	if got, want := field(cm, "{.data.text}"), fmt.Sprint(text); got != want {
		v.t.Errorf("the ConfigMap says %q, want %q", got, want)
	}
	deployed := v.records("deployed")
	if len(deployed) != 1 {
		v.t.Errorf("Helm's records that are deployed are %v, of %v", deployed, v.records(""))
	}
	for _, status := range []string{"pending-install", "pending-upgrade", "pending-rollback", "uninstalling"} {
		if found := v.records(status); len(found) > 0 {
			v.t.Errorf("%v are %s", found, status)
		}
	}
}

func (v *releaseVictim) checkKept(before map[string]types.UID) {
	v.t.Helper()
	if now := v.uids(); !maps.Equal(now, before) {
		v.t.Errorf("objects were deleted and made again: %v, was %v", now, before)
	}
}

// records returns the names of Helm's records of the release that have a status, or all.
func (v *releaseVictim) records(status string) []string {
	v.t.Helper()
	selector := "owner=helm,name=" + v.name
	if status != "" {
		selector += ",status=" + status
	}
	all, err := v.cluster.List(v.t.Context(), "secrets", v.namespace, selector)
	if err != nil {
		v.t.Fatal(err)
	}
	var names []string
	for i := range all {
		names = append(names, all[i].GetName())
	}
	return names
}

// objects returns what the release has on the cluster, sorted; hooks are no part of it.
func (v *releaseVictim) objects() []string {
	v.t.Helper()
	return slices.Sorted(maps.Keys(v.uids()))
}

func (v *releaseVictim) uids() map[string]types.UID {
	v.t.Helper()
	out := map[string]types.UID{}
	for _, kind := range []string{"configmaps", "deployments.apps"} {
		obj, err := v.cluster.Get(v.t.Context(), v.ref(kind))
		if err != nil {
			v.t.Fatal(err)
		}
		if obj != nil {
			out[obj.GetKind()+"/"+obj.GetName()] = obj.GetUID()
		}
	}
	return out
}
