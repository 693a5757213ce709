package helm

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"

	"github.com/cleat-dev/cleat/internal/api"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// A case of the specification: what is observed and asked for, as changes of a release that is in sync; and what follows.
type decision struct {
	name string
	// with changes the observation, spec what is asked for. Either may be nil.
	with func(*Observed)
	spec func(*Spec)

	state State
	// action is the kind, with what belongs to it: `rollback to v1`, `install, replacing`, `none (RetriesExceeded, never): message`.
	action string
	why    string
}

// theTable is the specification of Decide.
var theTable = []decision{
	{"all is well", nil, nil,
		InSync, "none", "chart, values and metadata are those that the release was made of"},
	{"somebody forces an upgrade", nil, forced,
		InSync, "upgrade", "forceAt asks for one although nothing has changed"},

	// Nothing is there.
	{"nothing in the storage", absent, nil,
		Absent, "install", "the first release"},
	{"the history is there, the Secrets are not (F16)", func(o *Observed) { o.Release = nil }, nil,
		Absent, "install", "what a hand has removed from the storage is installed over, and takes its objects over"},
	{"uninstalled, the history kept", func(o *Observed) { o.Release.Status = Removed }, nil,
		Absent, "install, replacing", "the name is taken by the release that was removed"},
	{"an install has failed and left nothing", all(absent, installs(1)), nil,
		Absent, "none (RetriesExceeded, never): Failed to install after 1 attempt(s)", "no retries are asked for"},
	{"an install has failed, a retry is left", all(absent, installs(1)), retries(1),
		Absent, "install", "the failure was undone, this is the next try"},
	{"retries without end", all(absent, installs(1000)), retries(-1),
		Absent, "install", "less than zero is no limit"},
	{"no retry is left, somebody forces one", all(absent, installs(1)), forced,
		Absent, "install", "forceAt is one more try"},
	{"no retry is left, what it failed of is known", all(absent, installs(1), because("Namespace/x exists", false)), nil,
		Absent, "none (RetriesExceeded, woken): Failed to install after 1 attempt(s); it is tried again when Namespace/x exists",
		"a change outside may help, and Ready says which"},
	{"no retry is left, what it failed of is gone", all(absent, installs(1), because("Namespace/x exists", true)), nil,
		Absent, "install", "what it failed of has changed"},
	{"RetryOnFailure and nothing there", all(absent, installs(9)), retryOnFailure,
		Absent, "install", "that strategy counts nothing"},

	// Somebody is at it, or has died of it.
	{"pending, and our own (F13)", status(PendingUpgrade), nil,
		Locked, "unlock", "one agent acts at a time: who has begun it is dead"},
	{"pending since a moment, and somebody else's", all(status(PendingUpgrade), foreign(time.Minute)), nil,
		Locked, "none (PendingRelease, woken): release v2 is pending-upgrade by somebody else, who is left the time of spec.timeout for it",
		"a `helm upgrade` by hand must not be torn"},
	{"pending for long, and somebody else's", all(status(PendingInstall), foreign(time.Hour)), nil,
		Locked, "unlock", "no helm takes that long"},
	{"pending, and no retry is left", all(status(PendingUpgrade), upgrades(9)), nil,
		Locked, "unlock", "a lock says nothing about what failed"},
	{"killed while uninstalling (F14)", status(BeingRemoved), nil,
		Uninstalling, "uninstall", "what was begun is ended; then there is something to install over"},
	{"killed while uninstalling, for a failed install", all(status(BeingRemoved), installs(1)), nil,
		Uninstalling, "uninstall", "the same"},
	{"somebody else uninstalls", all(status(BeingRemoved), foreign(time.Second)), nil,
		Uninstalling, "none (PendingRelease, woken): release v2 is uninstalling by somebody else, who is left the time of spec.timeout for it",
		"a `helm uninstall` by hand must not be torn"},
	{"killed while installing", all(failed, interrupted(PendingInstall)), nil,
		Failed, "install, replacing", "it is not upgraded: its install hooks may not have run"},
	{"killed while upgrading", all(failed, interrupted(PendingUpgrade)), nil,
		Failed, "upgrade", "nothing is known to be wrong with what was asked for"},
	{"killed while upgrading, after a failure", all(failed, interrupted(PendingUpgrade), upgrades(1)), retries(1),
		Failed, "upgrade", "nothing is undone because an agent has died (F17)"},
	{"killed while installing, after a failure", all(failed, interrupted(PendingInstall), installs(1)), retries(1),
		Failed, "install, replacing", "nothing is uninstalled because an agent has died (F17)"},
	{"killed while rolling back", all(failed, interrupted(PendingRollback), upgrades(1)), retries(1),
		Failed, "rollback to v1", "the upgrade has failed, that has not changed"},
	{"killed while rolling back, then asked for something else", all(failed, interrupted(PendingRollback), upgrades(0)), nil,
		Failed, "upgrade", "what is asked for now has not failed yet"},

	// Not ours.
	{"made by helm, never seen before", func(o *Observed) { o.History = nil; o.Release.Remembered = false; o.At = nil; o.LastAction = "" }, nil,
		Unmanaged, "upgrade", "it is taken over"},
	{"not as it was left", func(o *Observed) { o.Release.Remembered = false }, nil,
		Unmanaged, "reset", "the history is about another release"},
	{"made by Flux, as its status says", func(o *Observed) { o.LastAction = v2.ReleaseActionInstall }, nil,
		InSync, "none", "a digest that fits makes it ours, without an upgrade"},

	// Not what is asked for.
	{"another version of the chart", nil, func(s *Spec) { s.ChartVersion = "2.0.0" },
		OutOfSync, "upgrade", "the chart has changed"},
	{"another chart, in place", nil, func(s *Spec) { s.Target.Chart, s.RenameInPlace = "other", true },
		OutOfSync, "upgrade", "chartNameChangeStrategy: InPlaceUpdate"},
	{"another chart", nil, func(s *Spec) { s.Target.Chart = "other" },
		OutOfSync, "uninstall", "chartNameChangeStrategy: Reinstall is the default"},
	{"another target namespace", nil, func(s *Spec) { s.Target.Namespace = "other" },
		OutOfSync, "uninstall", "the objects there have to go before those elsewhere are made"},
	{"another storage namespace", nil, func(s *Spec) { s.Target.Storage = "other" },
		OutOfSync, "uninstall", "the same"},
	{"another name", nil, func(s *Spec) { s.Target.Name = "other" },
		OutOfSync, "uninstall", "the same"},
	{"another name, and it was uninstalled there", func(o *Observed) { o.Release = nil }, func(s *Spec) { s.Target.Name = "other" },
		Absent, "reset", "what is remembered is about the old place"},
	{"another name, while pending", status(PendingUpgrade), func(s *Spec) { s.Target.Name = "other" },
		Locked, "unlock", "then it can be uninstalled"},
	{"other values", nil, func(s *Spec) { s.ConfigDigest = "sha256:other" },
		OutOfSync, "upgrade", "the values have changed"},
	{"other post-renderers", nil, func(s *Spec) { s.PostRenderersDigest = "sha256:other" },
		OutOfSync, "upgrade", "what is rendered has changed"},
	{"other common metadata", nil, func(s *Spec) { s.CommonMetadataDigest = "sha256:other" },
		OutOfSync, "upgrade", "what is rendered has changed"},
	{"rolled back, a retry is left", all(old, upgrades(1)), retries(1),
		OutOfSync, "upgrade", "the failure was undone, this is the next try"},
	{"rolled back, no retry is left", all(old, upgrades(1)), nil,
		OutOfSync, "none (RetriesExceeded, never): Failed to upgrade after 1 attempt(s)", "the last good release stays"},
	{"rolled back, no retry is left, forced", all(old, upgrades(1)), forced,
		OutOfSync, "upgrade", "forceAt is one more try"},
	{"rolled back, what it failed of is gone", all(old, upgrades(2), because("the quota of namespace x changes", true)), nil,
		OutOfSync, "upgrade", "what it failed of has changed"},
	{"the newest release is superseded", func(o *Observed) { o.Release.Status = Superseded }, nil,
		OutOfSync, "upgrade", "a newer one was deleted by hand"},

	// Failed.
	{"failed, and the failure is not counted", failed, nil,
		Failed, "upgrade", "what it failed under has changed: a new generation, chart or values, or a reset"},
	{"failed, and nobody knows what", func(o *Observed) { failed(o); o.LastAction = "" }, nil,
		Failed, "upgrade", "an upgrade may mend it"},
	{"an install has failed", all(failed, installs(1)), nil,
		Failed, "none (RetriesExceeded, never): Failed to install after 1 attempt(s)", "the default is no retry and no remedy: nothing is uninstalled (F17)"},
	{"an install has failed, a retry is left", all(failed, installs(1)), retries(1),
		Failed, "uninstall as a remedy", "the way from one try to the next"},
	{"an install has failed, no retry is left, remediateLastFailure", all(failed, installs(2)), all(retries(1), remediateLast),
		Failed, "uninstall as a remedy", "the last failure is to be undone as well"},
	{"an install has failed that has claims", all(failed, installs(1), claims), retries(1),
		Failed, "uninstall as a remedy, losing PersistentVolumeClaim/ns/data", "whoever reads the event knows what went"},
	{"an upgrade has failed", all(failed, upgrades(1)), nil,
		Failed, "none (RetriesExceeded, never): Failed to upgrade after 1 attempt(s)", "the default is no retry and no remedy"},
	{"an upgrade has failed, a retry is left", all(failed, upgrades(1)), retries(1),
		Failed, "rollback to v1", "the way from one try to the next"},
	{"an upgrade has failed, no retry is left, remediateLastFailure", all(failed, upgrades(2)), all(retries(1), remediateLast),
		Failed, "rollback to v1", "the last failure is to be undone as well"},
	{"an upgrade has failed, uninstall is the remedy", all(failed, upgrades(1)), all(retries(1), func(s *Spec) { s.Upgrade.Remedy = Uninstall }),
		Failed, "uninstall as a remedy", "upgrade.remediation.strategy: uninstall"},
	{"there is nothing to roll back to, a retry is left", all(failed, upgrades(1), func(o *Observed) { o.Good = nil }), retries(1),
		Failed, "upgrade", "the good one is gone from the storage, or is not as it was"},
	{"there is nothing to roll back to, no retry is left", all(failed, upgrades(2), func(o *Observed) { o.Good = nil }), all(retries(1), remediateLast),
		Failed, "none (MissingRollbackTarget, never): Failed to perform remediation: missing target release for rollback: cannot remediate failed release",
		"nothing can be done"},
	{"failed, no retry is left, forced", all(failed, upgrades(1)), forced,
		Failed, "upgrade", "forceAt is one more try"},
	{"failed, what it failed of is gone", all(failed, installs(1), because("Namespace/x exists", true)), nil,
		Failed, "upgrade", "what it failed of has changed"},
	{"RetryOnFailure, and it is early", all(failed, upgrades(1), failedAgo(time.Minute)), retryOnFailure,
		Failed, "none (interval) in 4m0s", "retryInterval has not gone by"},
	{"RetryOnFailure, and it is time", all(failed, upgrades(7), failedAgo(5*time.Minute)), retryOnFailure,
		Failed, "upgrade", "nothing is undone before the next try"},
	{"RetryOnFailure, early, forced", all(failed, upgrades(1), failedAgo(time.Minute)), all(retryOnFailure, forced),
		Failed, "upgrade", "forceAt does not wait"},
	{"RetryOnFailure, early, what it failed of is gone", all(failed, upgrades(1), failedAgo(time.Minute), because("x", true)), retryOnFailure,
		Failed, "upgrade", "there is nothing to wait for"},

	// Tests.
	{"never tested", nil, tests,
		Untested, "test", "tests are on"},
	{"tested", tested("Succeeded"), tests,
		InSync, "none", "the test was good"},
	{"tested, and there are no tests", func(o *Observed) { o.History[0].TestHooks = &map[string]*v2.TestHookStatus{} }, tests,
		InSync, "none", "an empty map says that somebody has looked"},
	{"tested half", tested("Running"), tests,
		Untested, "test", "who tested it is dead"},
	{"the test has failed", all(tested("Failed"), upgrades(1)), tests,
		Failed, "none (RetriesExceeded, never): Failed to upgrade after 1 attempt(s)", "a failed test is a failed upgrade"},
	{"the test has failed, a retry is left", all(tested("Failed"), installs(1)), all(tests, retries(1)),
		Failed, "uninstall as a remedy", "a failed test is a failed install"},
	{"the test has failed, which is to be ignored", all(tested("Failed"), upgrades(1)), all(tests, func(s *Spec) { s.Upgrade.IgnoreTests = true }),
		InSync, "none", "ignoreTestFailures"},
	{"the test has failed, tests are off now", all(tested("Failed"), upgrades(1)), nil,
		InSync, "none", "nobody asks for tests any more"},

	// Drift.
	{"drifted, correcting", drifted, func(s *Spec) { s.Correct = true },
		Drifted, "correct", "driftDetection.mode: enabled"},
	{"drifted, warning", drifted, nil,
		Drifted, "none", "driftDetection.mode: warn"},
	{"drifted and out of sync", drifted, func(s *Spec) { s.ChartVersion = "2.0.0" },
		OutOfSync, "upgrade", "an upgrade applies everything anyway"},

	// Pace.
	{"an install has failed in this attempt", all(absent, after(Install, true)), nil,
		Absent, "none (backoff)", "what is tried again at once fails again"},
	{"undone in this attempt", all(absent, installs(1), after(Install, true), after(Uninstall, false)), retries(1),
		Absent, "none (backoff)", "the next try comes after a pause"},
	{"an upgrade has failed in this attempt, nothing was stored", all(old, after(Upgrade, true)), nil,
		OutOfSync, "none (backoff)", "it has not got as far as to be counted"},
	{"an upgrade has failed in this attempt, a retry is left", all(failed, upgrades(1), after(Upgrade, true)), retries(1),
		Failed, "rollback to v1", "what is to be undone is undone at once"},
	{"undoing has failed in this attempt", all(failed, upgrades(1), after(Rollback, true)), retries(1),
		Failed, "none (backoff)", "it is tried again after a pause"},
	{"upgraded in this attempt, and still not in sync", all(old, after(Upgrade, false)), nil,
		OutOfSync, "none (StillOutOfSync, interval): the release is not as it is asked for although its upgrade has succeeded: release chart changed",
		"it would go on for ever"},
	{"corrected in this attempt, and drifted again (F19)", all(drifted, after(Correct, false)), func(s *Spec) { s.Correct = true },
		Drifted, "none", "somebody changes it back: the next look is soon enough"},
	{"unlocked in this attempt", all(failed, interrupted(PendingUpgrade), after(Unlock, false)), nil,
		Failed, "upgrade", "that was the way to it"},
}

func TestDecide(t *testing.T) {
	for _, c := range theTable {
		t.Run(c.name, func(t *testing.T) {
			o, s := observedInSync(), specInSync()
			apply(&o, c.with)
			apply(&s, c.spec)
			state, action := Decide(o, s, noon)
			if state != c.state || describe(action) != c.action {
				t.Errorf("Decide = %s, %q; want %s, %q: %s", state, describe(action), c.state, c.action, c.why)
			}
			if action.Why == "" {
				t.Error("the action does not say why")
			}
		})
	}
}

// TestTableIsComplete: every state and every action is in the specification.
func TestTableIsComplete(t *testing.T) {
	states, kinds := map[State]bool{}, map[string]bool{}
	for _, c := range theTable {
		states[c.state] = true
		kind, _, _ := strings.Cut(c.action, " ")
		kinds[strings.ReplaceAll(kind, ",", "")] = true
	}
	for _, s := range []State{Locked, Uninstalling, Absent, Unmanaged, OutOfSync, Failed, Untested, Drifted, InSync} {
		if !states[s] {
			t.Errorf("the state %s is nowhere in the table", s)
		}
	}
	for _, k := range []ActionKind{None, Install, Upgrade, Test, Rollback, Uninstall, Unlock, Correct, Reset} {
		if !kinds[string(k)] {
			t.Errorf("the action %s is nowhere in the table", k)
		}
	}
}

func observedInSync() Observed {
	return Observed{
		Release: &Release{Version: 2, Status: Deployed, ChartName: "web", ChartVersion: "1.0.0", ConfigDigest: "sha256:c", Remembered: true, Since: noon},
		At:      &Target{Storage: "ns", Namespace: "ns", Name: "web", Chart: "web"},
		History: v2.Snapshots{
			{Name: "web", Namespace: "ns", Version: 2, Status: "deployed", ChartName: "web", ChartVersion: "1.0.0"},
			{Name: "web", Namespace: "ns", Version: 1, Status: "superseded", ChartName: "web", ChartVersion: "0.9.0"},
		},
		LastAction: v2.ReleaseActionUpgrade,
		Good:       []int{1}, FailedAt: noon,
	}
}

func specInSync() Spec {
	return Spec{
		Target: Target{Storage: "ns", Namespace: "ns", Name: "web", Chart: "web"}, ChartVersion: "1.0.0", ConfigDigest: "sha256:c",
		Install: Policy{Verb: "install", Remedy: Uninstall},
		Upgrade: Policy{Verb: "upgrade", Remedy: Rollback},
		Grace:   5 * time.Minute,
	}
}

func apply[T any](to *T, change func(*T)) {
	if change != nil {
		change(to)
	}
}

func all[T any](changes ...func(*T)) func(*T) {
	return func(to *T) {
		for _, change := range changes {
			change(to)
		}
	}
}

func absent(o *Observed)              { o.Release, o.History, o.At = nil, nil, nil }
func status(s Status) func(*Observed) { return func(o *Observed) { o.Release.Status = s } }
func failed(o *Observed)              { o.Release.Status = FailedStatus; o.History[0].Status = "failed" }
func old(o *Observed)                 { o.Release.ChartVersion = "0.9.0" }
func drifted(o *Observed)             { o.Drift = []string{"Deployment/ns/web"} }
func claims(o *Observed)              { o.Release.Claims = []string{"PersistentVolumeClaim/ns/data"} }
func forced(s *Spec)                  { s.Forced = true }
func tests(s *Spec)                   { s.Tests = true }
func remediateLast(s *Spec)           { s.Install.RemediateLast, s.Upgrade.RemediateLast = true, true }

func retryOnFailure(s *Spec) {
	for _, p := range []*Policy{&s.Install, &s.Upgrade} {
		p.Retry, p.RetryInterval = true, 5*time.Minute
	}
}

func retries(n int) func(*Spec) {
	return func(s *Spec) { s.Install.Retries, s.Upgrade.Retries = n, n }
}

func installs(n int64) func(*Observed) {
	return func(o *Observed) { o.LastAction, o.InstallFailures = v2.ReleaseActionInstall, n }
}

func upgrades(n int64) func(*Observed) {
	return func(o *Observed) { o.LastAction, o.UpgradeFailures = v2.ReleaseActionUpgrade, n }
}

func because(of string, gone bool) func(*Observed) {
	return func(o *Observed) { o.Cause, o.CauseGone = of, gone }
}

func foreign(ago time.Duration) func(*Observed) {
	return func(o *Observed) { o.Release.Foreign, o.Release.Since = true, noon.Add(-ago) }
}

func interrupted(in Status) func(*Observed) {
	return func(o *Observed) { o.Release.Interrupted = in }
}

func failedAgo(d time.Duration) func(*Observed) {
	return func(o *Observed) { o.FailedAt = noon.Add(-d) }
}

func tested(phase string) func(*Observed) {
	return func(o *Observed) { o.History[0].TestHooks = &map[string]*v2.TestHookStatus{"check": {Phase: phase}} }
}

func after(kind ActionKind, failed bool) func(*Observed) {
	return func(o *Observed) { o.Ended = append(o.Ended, Ended{kind, failed}) }
}

// describe writes an action as the table does.
func describe(a Action) string {
	text := string(a.Kind)
	switch {
	case a.Kind == Rollback:
		text += fmt.Sprintf(" to v%d", a.Version)
	case a.Replace:
		text += ", replacing"
	case a.Remedy:
		text += " as a remedy"
	}
	if len(a.Losing) > 0 {
		text += fmt.Sprintf(", losing %s", a.Losing[0])
	}
	if f := a.Fault; f != nil && f.Reason != "" {
		text += fmt.Sprintf(" (%s, %s): %s", f.Reason, f.Retry, f.Message)
	} else if f != nil {
		text += fmt.Sprintf(" (%s)", f.Retry)
	}
	if f := a.Fault; f != nil && f.Reason == "" && !f.At.IsZero() {
		text += " in " + f.At.Sub(noon).String()
	}
	return text
}

// model is what Decide is played against: a storage, a status and a cluster, as values.
type model struct {
	o    Observed
	spec Spec
	// made names the cases of the table that it was made of.
	made []string
	// fails says of an action whether it fails, and whether it does so of something that is no fault of the release.
	fails func(ActionKind) (failed, blameless bool)
}

// perform does what an action does to the model, as far as a decision goes by it.
func (w *model) perform(a Action) {
	failed, blameless := w.fails(a.Kind)
	switch a.Kind {
	case None: // the end of an attempt
	case Install, Upgrade:
		w.release(a.Kind, failed, blameless)
	case Rollback:
		w.add(FailedStatus, "0.9.0")
		if !failed {
			w.newest().Status = Deployed
		}
	case Uninstall:
		if !failed {
			w.o.Release = nil
		} else {
			w.newest().Status = BeingRemoved
		}
	case Unlock:
		w.newest().Interrupted = w.newest().Status
		w.newest().Status = FailedStatus
	case Test:
		phase := "Succeeded"
		if failed {
			phase = "Failed"
			w.count(w.o.LastAction)
		}
		w.o.History[0].TestHooks = &map[string]*v2.TestHookStatus{"check": {Phase: phase}}
	case Correct:
		if !failed {
			w.o.Drift = nil
		}
	case Reset:
		w.o.History, w.o.At = nil, nil
		if w.o.Release != nil && w.spec.Target.Name != "web" {
			w.o.Release = nil // it is looked for elsewhere now
		}
	}
	w.o.Ended = append(w.o.Ended, Ended{a.Kind, failed})
}

func (w *model) newest() *Release { return w.o.Release }

func (w *model) count(action v2.ReleaseAction) {
	if action == v2.ReleaseActionInstall {
		w.o.InstallFailures++
	} else {
		w.o.UpgradeFailures++
	}
}

func (w *model) release(kind ActionKind, failed, blameless bool) {
	w.o.LastAction = v2.ReleaseAction(kind)
	if kind == Install {
		w.o.History = nil
	}
	w.add(Deployed, w.spec.ChartVersion)
	w.o.At = &w.spec.Target
	switch {
	case blameless:
		w.newest().Status, w.newest().Interrupted = FailedStatus, map[ActionKind]Status{Install: PendingInstall, Upgrade: PendingUpgrade}[kind]
	case failed:
		w.newest().Status = FailedStatus
		w.count(w.o.LastAction)
	default:
		w.o.PostRenderersDigest, w.o.CommonMetadataDigest = w.spec.PostRenderersDigest, w.spec.CommonMetadataDigest
	}
	w.o.History[0].Status = string(w.newest().Status)
}

func (w *model) add(status Status, version string) {
	at := 1
	if w.o.Release != nil {
		at = w.o.Release.Version + 1
	}
	w.o.Release = &Release{Version: at, Status: status, ChartName: w.spec.Target.Chart, ChartVersion: version, ConfigDigest: w.spec.ConfigDigest, Remembered: true, Since: noon}
	w.o.History = append(v2.Snapshots{{Name: "web", Namespace: "ns", Version: at, Status: string(status)}}, w.o.History...)
	for _, s := range w.o.History[1:] {
		w.o.Good = append(w.o.Good, s.Version)
	}
}

// models makes many different models and specs out of the changes of the table.
func models(n int, each func(*rand.Rand, *model)) {
	r := rand.New(rand.NewPCG(1, 2))
	for range n {
		w := &model{o: observedInSync(), spec: specInSync()}
		for range r.IntN(4) {
			c := theTable[r.IntN(len(theTable))]
			w.made = append(w.made, c.name)
			if w.o.Release != nil && len(w.o.History) > 0 {
				apply(&w.o, c.with)
			}
			apply(&w.spec, c.spec)
		}
		w.o.Ended = nil
		each(r, w)
	}
}

// TestDecideEndsEveryAttempt: whatever succeeds or fails, an attempt comes to an end after few actions; and attempts come to an
// end that has nothing to do, when nothing fails any more.
func TestDecideEndsEveryAttempt(t *testing.T) {
	models(20000, func(r *rand.Rand, w *model) {
		w.fails = func(ActionKind) (bool, bool) { f := r.IntN(2) == 0; return f, f && r.IntN(2) == 0 }
		w.spec.Forced = false // it is taken up once
		for range 3 {
			w.attempt(t)
		}
		w.fails = func(ActionKind) (bool, bool) { return false, false }
		w.o.FailedAt = noon.Add(-time.Hour)
		w.attempt(t)
		w.attempt(t)
		if _, a := Decide(w.o, w.spec, noon); a.Kind != None {
			t.Fatalf("when all succeeds, %s is still to be done; began with %q", a, w.made)
		}
	})
}

// attempt goes on until there is nothing to do in it.
func (w *model) attempt(t *testing.T) {
	t.Helper()
	w.o.Ended = nil
	for range 12 {
		_, a := Decide(w.o, w.spec, noon)
		if a.Kind == None {
			w.o.Ended = nil
			return
		}
		w.perform(a)
	}
	t.Fatalf("an attempt went on after %+v; began with %q", w.o.Ended, w.made)
}

// TestF17_NothingIsUndoneForWhatIsNotCounted: neither an uninstall nor a rollback follows a failure that is no fault of the
// release: one of which the agent died, or that came of an API server that did not answer.
func TestF17_NothingIsUndoneForWhatIsNotCounted(t *testing.T) {
	models(20000, func(r *rand.Rand, w *model) {
		w.spec.Target = specInSync().Target
		if w.o.Release == nil {
			return
		}
		w.o.Release.Status = FailedStatus
		w.o.Release.Interrupted = []Status{PendingInstall, PendingUpgrade}[r.IntN(2)]
		if state, a := Decide(w.o, w.spec, noon); a.Kind == Uninstall || a.Kind == Rollback {
			t.Fatalf("%s is followed by %s", state, a)
		}
		w.o.Release.Interrupted, w.o.InstallFailures, w.o.UpgradeFailures = "", 0, 0
		if state, a := Decide(w.o, w.spec, noon); a.Kind == Uninstall || a.Kind == Rollback {
			t.Fatalf("%s without a counted failure is followed by %s", state, a)
		}
	})
}

// TestHeldIsLeftAlone: nothing at all is done with what somebody else may be at work on.
func TestHeldIsLeftAlone(t *testing.T) {
	models(5000, func(r *rand.Rand, w *model) {
		if w.o.Release == nil {
			return
		}
		w.o.Release.Status = []Status{PendingInstall, PendingUpgrade, PendingRollback, BeingRemoved}[r.IntN(4)]
		foreign(time.Duration(r.Int64N(int64(w.spec.Grace))))(&w.o)
		if _, a := Decide(w.o, w.spec, noon); a.Kind != None || a.Fault == nil || a.Fault.Retry != api.RetryWoken || !a.Fault.At.After(noon) {
			t.Fatalf("%s, in spite of %+v", a, w.o.Release)
		}
	})
}

// TestExhaustedUntilTheCauseChanges: without a retry nothing is done, for as long as what it failed of is the same.
func TestExhaustedUntilTheCauseChanges(t *testing.T) {
	for _, c := range []func(*Observed){all(absent, installs(1)), all(failed, installs(1)), all(failed, upgrades(1)), all(old, upgrades(1))} {
		o, s := observedInSync(), specInSync()
		c(&o)
		because("Namespace/x exists", false)(&o)
		if _, a := Decide(o, s, noon); a.Kind != None || a.Fault.Reason != retriesExceededReason || a.Fault.Retry != api.RetryWoken {
			t.Errorf("with its cause unchanged: %s", describe(a))
		}
		o.CauseGone = true
		if _, a := Decide(o, s, noon); !a.Kind.releases() {
			t.Errorf("with its cause gone: %s", describe(a))
		}
	}
}

func TestMustReset(t *testing.T) {
	status := v2.HelmReleaseStatus{LastAttemptedGeneration: 1, LastAttemptedRevision: "1.0.0", LastAttemptedConfigDigest: "sha256:c"}
	for _, c := range []struct {
		why              string
		generation       int64
		revision, config string
		asked            bool
		want             string
	}{
		{"all is as it was", 1, "1.0.0", "sha256:c", false, ""},
		{"the spec has changed", 2, "1.0.0", "sha256:c", false, "generation differs from last attempt"},
		{"the chart has", 1, "1.0.1", "sha256:c", false, "chart version differs from last attempt"},
		{"the values have", 1, "1.0.0", "sha256:d", false, "values differ from last attempt"},
		{"resetAt", 1, "1.0.0", "sha256:c", true, "reset requested through annotation"},
	} {
		if got := mustReset(&status, c.generation, c.revision, c.config, c.asked); got != c.want {
			t.Errorf("%s: %q, want %q", c.why, got, c.want)
		}
	}
}
