package helm

import (
	"context"
	"fmt"
	"slices"
	"strings"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/util/validation"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/health"
	"github.com/cleat-dev/cleat/internal/reconcile/depend"
)

// understanding is what a spec says that takes effort to understand, once for a generation.
type understanding struct {
	judge     *health.Judge       // of spec.healthCheckExprs; nil without any
	dependsOn []depend.Dependency // of spec.dependsOn
	err       error
}

// validate refuses what this version cannot do, what cannot be meant, and what the flags forbid.
func (r *Reconciler) validate(_ context.Context, a *attempt) error {
	for _, check := range []func(*v2.HelmRelease) error{checkChart, checkNames, checkChoices, checkIgnore} {
		if err := check(a.hr); err != nil {
			return api.AsFault(err, api.InvalidSpecReason, api.RetryNever)
		}
	}
	a.understanding = r.understood.Of(a.hr, func() understanding { return understand(a.hr) })
	if a.err != nil {
		return api.Faultf(meta.InvalidCELExpressionReason, api.RetryNever, "%w", a.err)
	}
	var err error
	if a.annotated, err = depend.Annotated(a.hr, r.Options.NoCrossNamespaceRefs); err != nil {
		return err
	}
	return r.checkAccess(a.hr)
}

// understand compiles the expressions of a spec.
func understand(hr *v2.HelmRelease) understanding {
	var u understanding
	if u.judge, u.err = health.NewJudge(hr.Spec.HealthCheckExprs); u.err != nil {
		return u
	}
	self := depend.Ref{Kind: api.HelmReleaseKind.Kind, NamespacedName: client.ObjectKeyFromObject(hr)}
	u.dependsOn, u.err = depend.Understand(self, hr.Spec.DependsOn)
	return u
}

// checkChart wants one chart, of a kind that there is. The CRD says so too, unless it is of an older Flux.
func checkChart(hr *v2.HelmRelease) error {
	switch {
	case hr.HasChartTemplate() == hr.HasChartRef():
		return fmt.Errorf("either spec.chart or spec.chartRef must be given, and not both")
	case hr.HasChartRef():
		if _, known := sourceKind(hr.Spec.ChartRef.Kind); !known {
			return fmt.Errorf("spec.chartRef.kind is %q, use OCIRepository, HelmChart or ExternalArtifact", hr.Spec.ChartRef.Kind)
		}
		return nil
	}
	switch kind := hr.Spec.Chart.Spec.SourceRef.Kind; kind {
	case "HelmRepository", "GitRepository", "Bucket":
		return nil
	default:
		return fmt.Errorf("spec.chart.spec.sourceRef.kind is %q, use HelmRepository, GitRepository or Bucket", kind)
	}
}

// checkNames wants names that Helm's storage can hold: they end up in the names of Secrets and in labels.
func checkNames(hr *v2.HelmRelease) error {
	if name := hr.Spec.ReleaseName; name != "" {
		if problems := validation.IsDNS1123Subdomain(name); len(problems) > 0 || len(name) > maxReleaseName {
			return fmt.Errorf("spec.releaseName: %q is no name of a release: it must be a DNS name of at most %d characters", name, maxReleaseName)
		}
	}
	for _, field := range []struct{ name, namespace string }{
		{"spec.targetNamespace", hr.Spec.TargetNamespace}, {"spec.storageNamespace", hr.Spec.StorageNamespace},
	} {
		if field.namespace == "" {
			continue
		}
		if problems := validation.IsDNS1123Label(field.namespace); len(problems) > 0 {
			return fmt.Errorf("%s: %q is no name of a namespace: %s", field.name, field.namespace, strings.Join(problems, ", "))
		}
	}
	return nil
}

// checkChoices refuses what this version does not know: a strategy that is ignored would do what nobody has asked for.
func checkChoices(hr *v2.HelmRelease) error {
	upgrade := hr.GetUpgrade()
	for _, choice := range []struct {
		field, is string
		known     []string
	}{
		{"spec.postRenderStrategy", string(hr.Spec.PostRenderStrategy), []string{"combined", "nohooks", "separate"}},
		{"spec.waitStrategy.name", string(hr.GetWaitStrategy()), []string{"poller", "legacy"}},
		{"spec.driftDetection.mode", string(hr.GetDriftDetection().Mode), []string{"disabled", "warn", "enabled"}},
		{"spec.install.crds", string(hr.GetInstall().CRDs), []string{"Skip", "Create", "CreateReplace"}},
		{"spec.upgrade.crds", string(upgrade.CRDs), []string{"Skip", "Create", "CreateReplace"}},
		{"spec.upgrade.serverSideApply", string(upgrade.ServerSideApply), []string{"enabled", "disabled", "auto"}},
		{"spec.rollback.serverSideApply", string(hr.GetRollback().ServerSideApply), []string{"enabled", "disabled", "auto"}},
		{"spec.upgrade.chartNameChangeStrategy", string(upgrade.ChartNameChangeStrategy), []string{"Reinstall", "InPlaceUpdate"}},
		{"spec.upgrade.remediation.strategy", string(upgrade.GetRemediation().GetStrategy()), []string{"rollback", "uninstall"}},
		{"spec.install.strategy.name", strategyOf(hr.GetInstall().Strategy), []string{"RemediateOnFailure", "RetryOnFailure"}},
		{"spec.upgrade.strategy.name", upgradeStrategyOf(upgrade.Strategy), []string{"RemediateOnFailure", "RetryOnFailure"}},
		{"spec.uninstall.deletionPropagation", hr.GetUninstall().GetDeletionPropagation(), []string{"background", "foreground", "orphan"}},
	} {
		if choice.is != "" && !slices.Contains(choice.known, choice.is) {
			return api.Faultf(api.UnsupportedReason, api.RetryNever, "this version of the agent does not support %s: %s; known are %s",
				choice.field, choice.is, strings.Join(choice.known, ", "))
		}
	}
	return nil
}

func strategyOf(s *v2.InstallStrategy) string {
	if s == nil {
		return ""
	}
	return s.Name
}

func upgradeStrategyOf(s *v2.UpgradeStrategy) string {
	if s == nil {
		return ""
	}
	return s.Name
}

// checkAccess refuses a source of another namespace where the flags forbid that (faults.md A20).
func (r *Reconciler) checkAccess(hr *v2.HelmRelease) error {
	kind, key := referenceOf(hr)
	if r.Options.NoCrossNamespaceRefs && key.Namespace != hr.Namespace {
		return api.Faultf(acl.AccessDeniedReason, api.RetryNever, "can't access '%s/%s', cross-namespace references have been blocked", kind, key)
	}
	return nil
}
