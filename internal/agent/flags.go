package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/pkg/cache"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/decrypt"
	"github.com/cleat-dev/cleat/internal/source/helm"
	appsync "github.com/cleat-dev/cleat/internal/sync"
)

// defaultEventsAddr is next to that of artifacts, which has the port of Flux's notification-controller.
const defaultEventsAddr = ":9091"

// Flags are the options of `cleat run`. Names and defaults are those of Flux's controllers, except where a comment in
// register says otherwise, so that a Deployment's arguments can be taken over.
type Flags struct {
	Kubeconfig string
	Namespace  string // RUNTIME_NAMESPACE: where the agent runs

	StoragePath        string
	StorageAddr        string
	StorageAdvAddr     string
	RetentionTTL       time.Duration
	RetentionRecords   int
	ArtifactMax        int64
	DigestAlgorithm    string
	SnapshotDigest     string
	HelmIndexMax       int64
	HelmChartMax       int64
	HelmFileMax        int64
	AllowLinkLocal     bool
	TokenCacheSize     int
	TokenCacheDuration time.Duration
	MetricsAddr        string
	HealthAddr         string
	ReceiverAddr       string
	EventsAddr         string
	RateLimit          time.Duration
	LogLevel           string
	LogEncoding        string
	Concurrent         int
	ConcurrentSSA      int
	KubeAPIQPS         float32
	KubeAPIBurst       int
	WatchAll           bool
	WatchSelector      string
	ConfigsSelector    string
	LeaderElection     bool
	LeaseDuration      time.Duration
	RenewDeadline      time.Duration
	RetryPeriod        time.Duration
	ReleaseOnCancel    bool
	MinRetryDelay      time.Duration
	MaxRetryDelay      time.Duration
	RequeueDependency  time.Duration
	JitterPercent      int
	OverrideManagers   []string
	NoCrossNamespace   bool
	NoRemoteBases      bool
	Tenancy            Tenancy
	PruneLimit         int
	InventoryMax       int
	SopsAgeSecret      string
	SopsVaultList      string
	SopsCheckMAC       bool
	DecryptionAccount  string
	FeatureGates       string

	// Set by complete.
	watched, configs labels.Selector
	gates            map[string]bool
	tokens           *cache.TokenCache // of clouds; nil keeps none
	tenure           *tenure           // of the leases; nil without leader election
}

func (f *Flags) register(set *pflag.FlagSet) {
	set.StringVar(&f.Kubeconfig, "kubeconfig", "", "path to a kubeconfig file; the in-cluster configuration is used when it is empty")
	set.StringVar(&f.StoragePath, "storage-path", "/data", "directory where artifacts and Git mirrors are kept")
	set.StringVar(&f.StorageAddr, "storage-addr", ":9090", "address on which artifacts are served")
	set.StringVar(&f.StorageAdvAddr, "storage-adv-addr", "", "host[:port] of artifact URLs as seen in the cluster; derived from --storage-addr and the namespace when empty")
	set.DurationVar(&f.RetentionTTL, "artifact-retention-ttl", time.Minute, "how long a superseded artifact stays downloadable")
	set.IntVar(&f.RetentionRecords, "artifact-retention-records", 2, "how many artifacts of a source are kept at most")
	set.Int64Var(&f.ArtifactMax, "artifact-max-size", artifact.DefaultLimits.Bytes, "bytes that the files of one source may add up to, unpacked")
	set.StringVar(&f.DigestAlgorithm, "artifact-digest-algo", "sha256", "algorithm of artifact digests; only sha256 is served")
	set.Int64Var(&f.HelmIndexMax, "helm-index-max-size", helm.DefaultLimits.Index, "bytes that the index of a Helm repository may have")
	set.Int64Var(&f.HelmChartMax, "helm-chart-max-size", helm.DefaultLimits.Chart, "bytes that a packaged chart may have")
	set.Int64Var(&f.HelmFileMax, "helm-chart-file-max-size", helm.DefaultLimits.File, "bytes that one file in a chart may have")
	for _, name := range []string{"helm-cache-max-size", "helm-cache-ttl", "helm-cache-purge-interval"} {
		set.String(name, "", "accepted and not used: what is looked up in indexes is always kept, within a bound")
	}
	set.BoolVar(&f.AllowLinkLocal, "allow-link-local-sources", false, "let sources have link-local addresses, where clouds hand out the node's credentials")
	set.IntVar(&f.TokenCacheSize, "token-cache-max-size", 100, "how many tokens of clouds are kept until shortly before they expire; 0 keeps none")
	set.DurationVar(&f.TokenCacheDuration, "token-cache-max-duration", time.Hour, "how long a cloud's token is kept at most")
	set.StringVar(&f.MetricsAddr, "metrics-addr", ":8080", "address on which /metrics is served")
	set.StringVar(&f.HealthAddr, "health-addr", ":9440", "address on which /healthz and /readyz are served")
	// Written as in Flux, where it is the only one that is.
	set.StringVar(&f.ReceiverAddr, "receiverAddr", ":9292", "address on which the hooks of Receivers are taken")
	// Flux's controllers are given a URL here, and its notification-controller an address, which is that of our artifacts.
	set.StringVar(&f.EventsAddr, "events-addr", defaultEventsAddr, "address on which events of other controllers are taken, empty for none; a URL, as Flux's controllers are given, means the default: events of this agent do not leave it by HTTP")
	set.DurationVar(&f.RateLimit, "rate-limit-interval", 5*time.Minute, "how long the same event is not told again by Alerts; 0 tells all")
	set.StringVar(&f.LogLevel, "log-level", "info", "trace, debug, info or error")
	set.StringVar(&f.LogEncoding, "log-encoding", "json", "json or console")
	set.IntVar(&f.Concurrent, "concurrent", 4, "how many objects of each kind are reconciled at a time")
	set.IntVar(&f.ConcurrentSSA, "concurrent-ssa", 4, "how many server-side dry-runs one Kustomization makes at a time")
	set.Float32Var(&f.KubeAPIQPS, "kube-api-qps", 50, "requests a second to an API server without priority and fairness")
	set.IntVar(&f.KubeAPIBurst, "kube-api-burst", 300, "requests at once to an API server without priority and fairness")
	set.BoolVar(&f.WatchAll, "watch-all-namespaces", true, "reconcile the objects of all namespaces, not only the agent's own")
	set.StringVar(&f.WatchSelector, "watch-label-selector", "", "reconcile only objects with these labels")
	set.StringVar(&f.ConfigsSelector, "watch-configs-label-selector", "reconcile.fluxcd.io/watch=Enabled", "a change of a ConfigMap or Secret with these labels wakes the objects that refer to it")
	set.BoolVar(&f.LeaderElection, "enable-leader-election", false, "act only while holding Flux's leader leases, so that two agents never act at once")
	set.DurationVar(&f.LeaseDuration, "leader-election-lease-duration", 35*time.Second, "how long a lease that is not renewed holds others off")
	set.DurationVar(&f.RenewDeadline, "leader-election-renew-deadline", 30*time.Second, "how long the leader tries to renew before it stops")
	set.DurationVar(&f.RetryPeriod, "leader-election-retry-period", 5*time.Second, "time between tries to get or renew a lease")
	set.BoolVar(&f.ReleaseOnCancel, "leader-election-release-on-cancel", true, "give the leases up on a clean stop")
	set.DurationVar(&f.MinRetryDelay, "min-retry-delay", 750*time.Millisecond, "delay after the first failure of an object")
	set.DurationVar(&f.MaxRetryDelay, "max-retry-delay", 15*time.Minute, "upper bound of the delay, which doubles with every failure")
	set.DurationVar(&f.RequeueDependency, "requeue-dependency", 30*time.Second, "how often an object that waits for another looks again unasked; watches wake it at once")
	set.IntVar(&f.JitterPercent, "interval-jitter-percentage", 5, "spread of intervals in percent")
	set.StringArrayVar(&f.OverrideManagers, "override-manager", nil, "field manager whose fields are taken over; may be repeated")
	set.BoolVar(&f.NoCrossNamespace, "no-cross-namespace-refs", false, "refuse references to sources of other namespaces")
	// Flux's default is false. A build that fetches whatever a repository names is a hole; see internal/sync/remote.go.
	set.BoolVar(&f.NoRemoteBases, "no-remote-bases", true, "refuse kustomization files that name resources by URL")
	set.StringVar(&f.SopsAgeSecret, "sops-age-secret", "", "Secret in the agent's namespace whose age keys decrypt for Kustomizations that name no Secret")
	// With Flux, a token in a Secret goes to whatever server a file names; see docs/adr/0020.
	set.StringVar(&f.SopsVaultList, "sops-vault-configmap", "", "ConfigMap in the agent's namespace that lists the Vault servers that keys may be had from; no other is spoken to")
	// Flux never looks at it.
	set.BoolVar(&f.SopsCheckMAC, "sops-check-mac", true, "refuse encrypted files that were changed after they were encrypted")
	set.StringVar(&f.DecryptionAccount, "default-decryption-service-account", "", "ServiceAccount of their own namespace as which Kustomizations that name none have keys from clouds and Vaults; the agent's own when empty")
	set.IntVar(&f.PruneLimit, "prune-limit", 0, "percent of its tracked objects that one commit may remove from a Kustomization that is not annotated with "+api.AllowPruneAnnotation+"=true; 0 is no limit, as in Flux")
	set.IntVar(&f.InventoryMax, "inventory-max-size", appsync.DefaultInventoryLimit, "bytes of an inventory that a status holds; the rest goes into ConfigMaps of that size")
	set.StringVar(&f.SnapshotDigest, "snapshot-digest-algo", "sha256", "algorithm of the digests by which releases are remembered; only sha256 is served")
	set.Duration("graceful-shutdown-timeout", 10*time.Minute, "accepted for Flux's sake: actions on releases are cut off when the agent stops, and begun again when it starts")
	set.Duration("oom-watch-interval", 500*time.Millisecond, "accepted for Flux's sake: memory is bounded by limits on what is read")
	set.Uint8("oom-watch-memory-threshold", 95, "accepted for Flux's sake, as --oom-watch-interval")
	set.Int("http-retry", 9, "accepted for Flux's sake: artifacts do not come by HTTP")
	f.Tenancy.register(set)
	set.StringVar(&f.FeatureGates, "feature-gates", "", "comma-separated Name=true|false; "+knownGates())
}

// complete checks the flags and fills in what depends on the environment.
func (f *Flags) complete(env map[string]string) error {
	f.Namespace = env["RUNTIME_NAMESPACE"]
	if f.Namespace == "" {
		f.Namespace = "flux-system"
	}
	var err error
	if f.watched, err = labels.Parse(f.WatchSelector); err != nil {
		return fmt.Errorf("--watch-label-selector: %w", err)
	}
	if f.configs, err = labels.Parse(f.ConfigsSelector); err != nil {
		return fmt.Errorf("--watch-configs-label-selector: %w", err)
	}
	if f.JitterPercent < 0 || f.JitterPercent >= 100 {
		return fmt.Errorf("--interval-jitter-percentage: %d is not between 0 and 99", f.JitterPercent)
	}
	if f.RequeueDependency <= 0 {
		return errors.New("--requeue-dependency must be more than 0: it is the safety net of dependsOn")
	}
	if f.RetentionTTL <= 0 || f.RetentionRecords < 1 {
		return errors.New("--artifact-retention-ttl must be more than 0 and --artifact-retention-records at least 1")
	}
	if !slices.Contains([]string{"trace", "debug", "info", "error"}, f.LogLevel) {
		return fmt.Errorf("--log-level: %q is not trace, debug, info or error", f.LogLevel)
	}
	if !slices.Contains([]string{"json", "console"}, f.LogEncoding) {
		return fmt.Errorf("--log-encoding: %q is not json or console", f.LogEncoding)
	}
	if f.Concurrent < 1 || f.ConcurrentSSA < 1 {
		return errors.New("--concurrent and --concurrent-ssa must be at least 1")
	}
	if f.tokens, err = tokenCache(f.TokenCacheSize, f.TokenCacheDuration); err != nil {
		return err
	}
	if f.LeaderElection {
		f.tenure = newTenure(f.RenewDeadline)
	}
	if f.DigestAlgorithm != "sha256" {
		return fmt.Errorf("--artifact-digest-algo: %q is not served, only sha256 is", f.DigestAlgorithm)
	}
	if f.SnapshotDigest != "sha256" {
		return fmt.Errorf("--snapshot-digest-algo: %q is not served, only sha256 is", f.SnapshotDigest)
	}
	for name, size := range map[string]int64{
		"artifact-max-size": f.ArtifactMax, "helm-index-max-size": f.HelmIndexMax,
		"helm-chart-max-size": f.HelmChartMax, "helm-chart-file-max-size": f.HelmFileMax,
	} {
		if size < 1 {
			return fmt.Errorf("--%s must be at least 1", name)
		}
	}
	if strings.Contains(f.EventsAddr, "://") {
		f.EventsAddr = defaultEventsAddr
	}
	if f.RateLimit < 0 {
		return errors.New("--rate-limit-interval must not be less than 0")
	}
	if f.StorageAdvAddr == "" {
		f.StorageAdvAddr = f.advertised()
	}
	if err := f.Tenancy.complete(); err != nil {
		return err
	}
	if f.gates, err = parseGates(f.FeatureGates); err != nil {
		return err
	}
	if f.DecryptionAccount != "" && !f.gates[workloadIdentity] {
		return errors.New("--default-decryption-service-account needs --feature-gates=" + workloadIdentity + "=true")
	}
	return nil
}

// tokenCache returns where tokens of clouds are kept, nil for nowhere.
func tokenCache(size int, duration time.Duration) (*cache.TokenCache, error) {
	if size < 0 || duration <= 0 {
		return nil, errors.New("--token-cache-max-size must be at least 0 and --token-cache-max-duration more than 0")
	}
	if size == 0 {
		return nil, nil
	}
	tokens, err := cache.NewTokenCache(size, cache.WithMaxDuration(duration))
	if err != nil {
		return nil, fmt.Errorf("making the cache of tokens: %w", err)
	}
	return tokens, nil
}

// limits is what one source may store.
func (f *Flags) limits() artifact.Limits {
	l := artifact.DefaultLimits
	l.Bytes = f.ArtifactMax
	return l
}

// decryption is where keys may come from.
func (f *Flags) decryption() decrypt.Options {
	return decrypt.Options{
		Namespace: f.Namespace, AgeSecret: f.SopsAgeSecret, VaultConfigMap: f.SopsVaultList,
		DefaultServiceAccount: f.DecryptionAccount, ObjectIdentity: f.gates[workloadIdentity], IgnoreMAC: !f.SopsCheckMAC,
	}
}

// advertised is the address of artifacts when none is given: the one that is listened on if it names a host, otherwise the
// Service that Flux's clients expect.
func (f *Flags) advertised() string {
	host, port, err := net.SplitHostPort(f.StorageAddr)
	if err == nil && host != "" && host != "0.0.0.0" && host != "::" {
		return f.StorageAddr
	}
	if f.Kubeconfig != "" { // not in a cluster: there is no Service
		if name, err := os.Hostname(); err == nil {
			return net.JoinHostPort(name, port)
		}
	}
	return "source-controller." + f.Namespace + ".svc.cluster.local."
}
