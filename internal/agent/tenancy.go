package agent

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/fluxcd/pkg/auth"
	ssautil "github.com/fluxcd/pkg/ssa/utils"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/kube"
	"github.com/cleat-dev/cleat/internal/source"
)

// Tenancy are the flags about whom the agent acts as, where, and in which order.
type Tenancy struct {
	DefaultServiceAccount    string
	DefaultKubeConfigAccount string
	InsecureKubeConfigExec   bool
	InsecureKubeConfigTLS    bool
	CustomApplyStageKinds    string
	OrphanAfter              time.Duration

	// Set by complete.
	stages map[schema.GroupKind]struct{}
}

func (t *Tenancy) register(set *pflag.FlagSet) {
	set.StringVar(&t.DefaultServiceAccount, "default-service-account", "", "ServiceAccount of its namespace that a Kustomization or HelmRelease acts as which names none; the agent's own rights when empty")
	set.StringVar(&t.DefaultKubeConfigAccount, "default-kubeconfig-service-account", "", "ServiceAccount of its namespace that gets the token for a cluster whose ConfigMap names none")
	set.BoolVar(&t.InsecureKubeConfigExec, "insecure-kubeconfig-exec", false, "let the kubeconfigs of spec.kubeConfig have the agent run commands")
	set.BoolVar(&t.InsecureKubeConfigTLS, "insecure-kubeconfig-tls", false, "let the kubeconfigs of spec.kubeConfig name servers that are not verified")
	set.StringVar(&t.CustomApplyStageKinds, "custom-apply-stage-kinds", "", "comma-separated Group/Kind that are applied after definitions and classes and before everything else")
	set.DurationVar(&t.OrphanAfter, "orphan-after", time.Hour, "how long a deletion that fails is tried again before the Kustomization or HelmRelease lets go of what it has applied")
}

// complete checks the flags. A name that no ServiceAccount can have would lock every tenant out, one Kustomization at a time.
func (t *Tenancy) complete() error {
	for flag, name := range map[string]string{
		auth.ControllerFlagDefaultServiceAccount:           t.DefaultServiceAccount,
		auth.ControllerFlagDefaultKubeConfigServiceAccount: t.DefaultKubeConfigAccount,
	} {
		if name == "" {
			continue
		}
		if reasons := validation.ValidateServiceAccountName(name, false); len(reasons) > 0 {
			return fmt.Errorf("--%s: %q is no name of a ServiceAccount: %s", flag, name, strings.Join(reasons, ", "))
		}
	}
	if t.OrphanAfter <= 0 {
		return errors.New("--orphan-after must be more than 0")
	}
	if t.CustomApplyStageKinds == "" {
		return nil
	}
	stages, err := ssautil.ParseGroupKindSet(t.CustomApplyStageKinds)
	if err != nil {
		return fmt.Errorf("--custom-apply-stage-kinds: %w", err)
	}
	for gk := range stages { // the library takes anything
		if gk.Kind == "" || strings.Contains(gk.Kind, "/") {
			return fmt.Errorf("--custom-apply-stage-kinds: %q is not a list of Group/Kind", t.CustomApplyStageKinds)
		}
	}
	t.stages = stages
	return nil
}

// treatment is how any cluster is treated, the agent's own or another.
func (f *Flags) treatment(log *slog.Logger) kube.Options {
	return kube.Options{Namespace: f.Namespace, Concurrency: f.ConcurrentSSA, OverrideManagers: f.OverrideManagers, Log: log}
}

// clusters returns the clusters that one kind of owner applies to. Those of kubeConfigs get their connections where sources get
// theirs: whoever may create a Secret chooses the address.
func (f *Flags) clusters(own *kube.Cluster, owner kube.Owner, agent client.Client, log *slog.Logger) *kube.Clusters {
	treatment := f.treatment(log)
	treatment.Owner = owner
	return kube.NewClusters(own, kube.RemoteOptions{
		Guard:   f.tenure.guard,
		Secrets: agent,
		Identity: kube.Identity{
			DefaultServiceAccount: f.Tenancy.DefaultKubeConfigAccount, OfServiceAccounts: f.gates[workloadIdentity], Tokens: f.tokens,
		},
		Policy:    kube.KubeconfigPolicy{Exec: f.Tenancy.InsecureKubeConfigExec, TLS: f.Tenancy.InsecureKubeConfigTLS},
		Dial:      source.Network{AllowLinkLocal: f.AllowLinkLocal}.Dialer().DialContext,
		UserAgent: "cleat/" + Version, Cluster: treatment,
	})
}
