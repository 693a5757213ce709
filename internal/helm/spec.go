package helm

import (
	"time"

	v2 "github.com/fluxcd/helm-controller/api/v2"
)

// Spec is what is asked of a release, in values.
type Spec struct {
	Target       Target
	ChartVersion string
	// ConfigDigest is of the values, PostRenderersDigest and CommonMetadataDigest of what changes the rendered objects.
	ConfigDigest, PostRenderersDigest, CommonMetadataDigest string
	// RenameInPlace has a release go on when its chart has another name.
	RenameInPlace bool
	// Install and Upgrade say what to do when they fail.
	Install, Upgrade Policy
	Tests            bool
	// Correct puts right what has drifted.
	Correct bool
	// Forced: somebody asks for an upgrade, be it needed or not, and for one more try when none is left.
	Forced bool
	// Grace is how long a release that somebody else has begun is left alone.
	Grace time.Duration
}

// Policy is what becomes of a failed action.
type Policy struct {
	// Verb is what messages call the action.
	Verb string
	// Retry: tried again every RetryInterval, without undoing anything before (strategy RetryOnFailure).
	Retry         bool
	RetryInterval time.Duration
	// Retries is how often it is tried again at once; less than zero is without end.
	Retries int
	// Remedy undoes a failure before the next try, and the last one if RemediateLast: Uninstall, or Rollback.
	Remedy        ActionKind
	RemediateLast bool
	// IgnoreTests: a failed test is no failure.
	IgnoreTests bool
}

// exhausted says that so many failures leave no try.
func (p Policy) exhausted(failures int64) bool {
	return !p.Retry && p.Retries >= 0 && failures > int64(p.Retries)
}

// of returns the policy of the action that was tried last. The zero Policy stands for none having been tried.
func (s Spec) of(last v2.ReleaseAction) Policy {
	switch last {
	case v2.ReleaseActionInstall:
		return s.Install
	case v2.ReleaseActionUpgrade:
		return s.Upgrade
	default:
		return Policy{}
	}
}

// policies reads what a HelmRelease says of failures. retryOnFailure makes RetryOnFailure the default strategy.
func policies(hr *v2.HelmRelease, retryOnFailure bool) (install, upgrade Policy) {
	tests := hr.GetTest().IgnoreFailures
	onInstall, onUpgrade := hr.GetInstall(), hr.GetUpgrade()
	install = policy("install", onInstall.GetRemediation(), onInstall.GetRetry(retryOnFailure), tests)
	upgrade = policy("upgrade", onUpgrade.GetRemediation(), onUpgrade.GetRetry(retryOnFailure), tests)
	return install, upgrade
}

func policy(verb string, remediation v2.Remediation, retry v2.Retry, ignoreTests bool) Policy {
	p := Policy{
		Verb: verb, Retries: remediation.GetRetries(), Remedy: Rollback,
		RemediateLast: remediation.MustRemediateLastFailure(), IgnoreTests: remediation.MustIgnoreTestFailures(ignoreTests),
	}
	if remediation.GetStrategy() == v2.UninstallRemediationStrategy {
		p.Remedy = Uninstall
	}
	if retry != nil {
		p.Retry, p.RetryInterval = true, retry.GetRetryInterval()
	}
	return p
}
