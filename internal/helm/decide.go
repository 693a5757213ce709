package helm

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"

	"github.com/cleat-dev/cleat/internal/api"
)

// ActionKind is what can be done with a release. Each has a file of its name.
type ActionKind string

// The actions.
const (
	// None: nothing is done, for the reason that the Action gives.
	None ActionKind = "none"
	// Install makes the first release, or a new one in the place of one that was removed.
	Install ActionKind = "install"
	// Upgrade makes the next one.
	Upgrade ActionKind = "upgrade"
	// Test runs its test hooks.
	Test ActionKind = "test"
	// Rollback makes the next one of what the last good one was.
	Rollback ActionKind = "rollback"
	// Uninstall removes it.
	Uninstall ActionKind = "uninstall"
	// Unlock marks a pending release as failed whose maker is dead.
	Unlock ActionKind = "unlock"
	// Correct puts right what has drifted in the cluster.
	Correct ActionKind = "correct"
	// Reset forgets the history in the status, and where the release was.
	Reset ActionKind = "reset"
)

// Action is what is to be done next, with why.
type Action struct {
	Kind ActionKind
	// Why is for logs and for people: a whole clause, without times.
	Why string
	// Version is the one to go back to, of a Rollback.
	Version int
	// Replace lets an Install take the name of a release that was removed, or that was never finished.
	Replace bool
	// Remedy: of an Uninstall that undoes a failure.
	Remedy bool
	// Losing are the PersistentVolumeClaims that go with an Uninstall.
	Losing []string
	// Of None alone: what keeps it from being done, if anything does.
	Fault *Refusal
}

// Refusal says why nothing is done although not all is well.
type Refusal struct {
	// Reason is empty when it is that of the action which has failed in this attempt; then Message is empty as well.
	Reason, Message string
	// Retry says what is waited for, At when at the latest; zero when no time is known.
	Retry api.Retry
	At    time.Time
}

// Reasons of refusals, as Flux words them.
const (
	retriesExceededReason       = "RetriesExceeded"
	missingRollbackTargetReason = "MissingRollbackTarget"
	pendingReleaseReason        = "PendingRelease"
	// stillOutOfSyncReason is ours.
	stillOutOfSyncReason = "StillOutOfSync"
)

// Decide says what state a release is in, and the one action that is next. It is a function of its arguments alone. The table
// of decide_test.go is its specification.
func Decide(o Observed, s Spec, now time.Time) (State, Action) {
	state, why := stateOf(o, s)
	return state, pace(o, next(state, why, o, s, now))
}

// next returns the action that follows from the state.
func next(state State, why string, o Observed, s Spec, now time.Time) Action {
	switch state {
	case Locked:
		return unlessHeld(o, s, now, Action{Kind: Unlock, Why: why})
	case Uninstalling:
		return unlessHeld(o, s, now, Action{Kind: Uninstall, Why: why, Losing: o.Release.Claims})
	case Absent:
		return whenAbsent(why, o, s)
	case Unmanaged:
		return whenUnmanaged(why, o)
	case Failed:
		return whenFailed(why, o, s, now)
	case OutOfSync:
		return whenOutOfSync(why, o, s)
	case Untested:
		return Action{Kind: Test, Why: why}
	case Drifted:
		if !s.Correct {
			return Action{Kind: None, Why: why + ", which spec.driftDetection has us tell of only"}
		}
		return Action{Kind: Correct, Why: why}
	case InSync:
		if s.Forced {
			return Action{Kind: Upgrade, Why: "force requested through annotation"}
		}
		return Action{Kind: None, Why: "release in-sync with desired state"}
	}
	panic("no such state: " + state)
}

// unlessHeld leaves a release alone that somebody else has in hand. What our own kind has begun it cannot be at any more: one
// agent at a time acts on a cluster, and what this process does is not looked at before it has ended.
func unlessHeld(o Observed, s Spec, now time.Time, action Action) Action {
	until := o.Release.Since.Add(s.Grace)
	if !o.Release.Foreign || !now.Before(until) {
		return action
	}
	return Action{Kind: None, Why: "somebody else is at it", Fault: &Refusal{
		Reason: pendingReleaseReason, Retry: api.RetryWoken, At: until,
		Message: fmt.Sprintf("release v%d is %s by somebody else, who is left the time of spec.timeout for it", o.Release.Version, o.Release.Status),
	}}
}

func whenAbsent(why string, o Observed, s Spec) Action {
	install := Action{Kind: Install, Why: why, Replace: o.Release != nil}
	switch {
	case s.moved(o.At) != "":
		return Action{Kind: Reset, Why: "the release is gone from where it was: " + s.moved(o.At)}
	case !s.Install.exhausted(o.InstallFailures):
		return install
	}
	return unlessExhausted(o, s, s.Install, o.InstallFailures, install)
}

// whenUnmanaged takes a release over. What the history says is about another one.
func whenUnmanaged(why string, o Observed) Action {
	if len(o.History) > 0 {
		return Action{Kind: Reset, Why: why}
	}
	return Action{Kind: Upgrade, Why: why}
}

func whenOutOfSync(why string, o Observed, s Spec) Action {
	upgrade := Action{Kind: Upgrade, Why: why}
	switch {
	case s.moved(o.At) != "":
		return Action{Kind: Uninstall, Why: why, Losing: o.Release.Claims}
	case !s.Upgrade.exhausted(o.UpgradeFailures):
		return upgrade
	}
	return unlessExhausted(o, s, s.Upgrade, o.UpgradeFailures, upgrade)
}

// whenFailed tries again, or undoes the failure first. Only a failure that was counted is ever undone: one that was not is of
// our own making, or of what has changed since.
func whenFailed(why string, o Observed, s Spec, now time.Time) Action {
	policy, count := s.of(o.LastAction), o.failures()
	upgrade := Action{Kind: Upgrade, Why: why}
	switch {
	case o.Release.Interrupted != "":
		return again(o, s, policy)
	case count == 0:
		upgrade.Why = "release conditions have changed since last failure"
		return upgrade
	case policy.Retry:
		return unlessEarly(o, s, policy, now, upgrade)
	case policy.exhausted(count) && !policy.RemediateLast:
		return unlessExhausted(o, s, policy, count, upgrade)
	}
	return remedy(why, o, policy)
}

// again begins anew what was cut off. An install that has not come to its end is installed, not upgraded: its hooks may not
// have run.
func again(o Observed, s Spec, policy Policy) Action {
	why := fmt.Sprintf("what made it was interrupted in the status '%s'", o.Release.Interrupted)
	switch back := previous(o.History, policy.IgnoreTests); {
	case o.Release.Interrupted == PendingInstall:
		return Action{Kind: Install, Why: why, Replace: true}
	case o.Release.Interrupted == PendingRollback && o.failures() > 0 && back != nil && slices.Contains(o.Good, back.Version):
		return Action{Kind: Rollback, Why: why, Version: back.Version}
	}
	return Action{Kind: Upgrade, Why: why}
}

// unlessEarly waits for the time of the next try.
func unlessEarly(o Observed, s Spec, policy Policy, now time.Time, action Action) Action {
	at := o.FailedAt.Add(policy.RetryInterval)
	if s.Forced || o.CauseGone || !now.Before(at) {
		return action
	}
	return Action{Kind: None, Why: "the time of the next try has not come", Fault: &Refusal{Retry: api.RetryInterval, At: at}}
}

// unlessExhausted gives an action that has no try left one more when somebody asks for it, or when what it failed of is gone.
func unlessExhausted(o Observed, s Spec, policy Policy, failures int64, action Action) Action {
	switch {
	case s.Forced:
		action.Why = "force requested through annotation"
		return action
	case o.CauseGone:
		action.Why = "what it failed of is gone: " + o.Cause
		return action
	}
	refusal := &Refusal{
		Reason: retriesExceededReason, Retry: api.RetryNever,
		Message: fmt.Sprintf("Failed to %s after %d attempt(s)", policy.Verb, failures),
	}
	if o.Cause != "" {
		refusal.Retry = api.RetryWoken
		refusal.Message += nextTry("", o.Cause)
	}
	return Action{Kind: None, Why: "exceeded maximum retries", Fault: refusal}
}

// remedy undoes a failure.
func remedy(why string, o Observed, policy Policy) Action {
	if policy.Remedy == Uninstall {
		return Action{Kind: Uninstall, Why: why, Remedy: true, Losing: o.Release.Claims}
	}
	back := previous(o.History, policy.IgnoreTests)
	switch {
	case back != nil && slices.Contains(o.Good, back.Version):
		return Action{Kind: Rollback, Why: why, Version: back.Version}
	case !policy.exhausted(o.failures()):
		return Action{Kind: Upgrade, Why: "there is no release to roll back to"}
	}
	return Action{Kind: None, Why: "there is no release to roll back to", Fault: &Refusal{
		Reason: missingRollbackTargetReason, Retry: api.RetryNever,
		Message: "Failed to perform remediation: missing target release for rollback: cannot remediate failed release",
	}}
}

// pace keeps one attempt from going round in circles. What has failed is tried again in a later attempt, after a pause; what
// has succeeded and would be done once more has not brought what it should.
func pace(o Observed, action Action) Action {
	for _, ended := range o.Ended {
		same := ended.Kind == action.Kind
		switch {
		case action.Kind == None:
			return action
		case ended.Failed && (same || ended.Kind.releases() && action.Kind.releases()):
			return Action{Kind: None, Why: "it has failed in this attempt", Fault: &Refusal{Retry: api.RetryBackoff}}
		case same && action.Kind == Correct:
			return Action{Kind: None, Why: "it drifts again as soon as it is corrected; the next attempt corrects it again"}
		case same:
			return Action{Kind: None, Why: "it has been done in this attempt", Fault: &Refusal{
				Reason: stillOutOfSyncReason, Retry: api.RetryInterval,
				Message: fmt.Sprintf("the release is not as it is asked for although its %s has succeeded: %s", action.Kind, action.Why),
			}}
		}
	}
	return action
}

// releases says that the action makes a release of what is asked for.
func (k ActionKind) releases() bool { return k == Install || k == Upgrade }

// mustReset says why failures that were counted are of no account any more; empty when they are. revision is the chart's
// version.
func mustReset(status *v2.HelmReleaseStatus, generation int64, revision, configDigest string, asked bool) string {
	switch {
	case status.LastAttemptedGeneration != generation:
		return "generation differs from last attempt"
	case status.LastAttemptedRevision != revision:
		return "chart version differs from last attempt"
	case status.LastAttemptedConfigDigest != "" && status.LastAttemptedConfigDigest != configDigest:
		return "values differ from last attempt"
	case asked:
		return "reset requested through annotation"
	}
	return ""
}

func (a Action) String() string {
	if len(a.Losing) == 0 {
		return fmt.Sprintf("%s: %s", a.Kind, a.Why)
	}
	return fmt.Sprintf("%s: %s; it loses %s", a.Kind, a.Why, strings.Join(a.Losing, ", "))
}
