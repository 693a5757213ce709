package oci

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/artifact"
	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
)

// Options are what the controller of OCIRepositories works with.
type Options struct {
	Store *artifact.Store
	// Secrets reads the Secrets and ServiceAccounts that objects name.
	Secrets client.Reader
	Network source.Network
	Edge    reconcile.Edge
	// Waker must be a source of events of the controller: objects that share a tag wake each other when it has moved.
	Waker    *reconcile.Waker
	Recorder *reconcile.Recorder
	Log      *slog.Logger

	// ObjectIdentity lets spec.serviceAccountName stand for an identity in a cloud (Flux's gate ObjectLevelWorkloadIdentity,
	// which the library asks of itself, too).
	ObjectIdentity bool
	// Clouds are the providers beside generic; nil means aws, azure and gcp.
	Clouds map[string]Cloud
	// Budget is what one attempt may ask of registries; nil means NewBudget.
	Budget func() *source.Budget
	// PublicRoot fetches the trusted root of the public Sigstore instance; nil means by its TUF repository.
	PublicRoot func(context.Context) (root.TrustedMaterial, error)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// NewRepositories returns the controller of OCIRepositories.
func NewRepositories(o Options) *reconcile.Controller[*sourcev1.OCIRepository, *attempt] {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Budget == nil {
		o.Budget = NewBudget
	}
	r := &repositories{
		store: o.Store, secrets: o.Secrets, network: o.Network, recorder: o.Recorder, waker: o.Waker, log: o.Log, now: o.Now,
		registries: &registries{network: o.Network, now: o.Now, open: map[string]*session{}},
		publicRoot: o.PublicRoot, objectIdentity: o.ObjectIdentity, budget: o.Budget,
	}
	r.contents.most = maxAnswers
	r.tokens = newTokens(o, &r.running)
	if r.publicRoot == nil {
		r.publicRoot = (&publicGood{network: o.Network, now: o.Now, running: &r.running}).root
	}
	return reconcile.NewController(r.kind(), o.Edge, api.SourceManager, o.Recorder, o.Log)
}

type repositories struct {
	store      *artifact.Store
	secrets    client.Reader
	network    source.Network
	recorder   *reconcile.Recorder
	waker      *reconcile.Waker
	log        *slog.Logger
	now        func() time.Time
	publicRoot func(context.Context) (root.TrustedMaterial, error)

	objectIdentity bool
	budget         func() *source.Budget

	registries *registries
	tokens     *tokens
	followers  followers
	contents   shared[contentKey, string] // → digest in the store
	running    source.Running             // calls into libraries that outlive their deadline
}

// contentKey is all that the bytes of an artifact depend on. The session is part of it, so that nobody is given what his own
// credentials could not have fetched.
type contentKey struct{ session, layer, operation, ignore string }

// attempt is one run for one OCIRepository.
type attempt struct {
	run      *reconcile.Run[*sourcev1.OCIRepository]
	obj      *sourcev1.OCIRepository // its spec, and its status as the run found it
	began    time.Time
	budget   *source.Budget
	selector selector // set by check

	source.Before

	session *session   // set by credentials
	policy  policy     // set by credentials, nil without spec.verify
	target  descriptor // set by resolve
	// revision names the target; set by resolve.
	revision string
	// verified is the message about a signature that this run has verified; trusted says that one before did, or that the
	// user's policy asks for none.
	verified         string
	trusted, skipped bool
	// failed is the condition that tells of a fault, where it is not FetchFailed; set by store.
	failed   string
	artifact *meta.Artifact // set by store
}

func (o *repositories) kind() reconcile.Kind[*sourcev1.OCIRepository, *attempt] {
	type obj = *sourcev1.OCIRepository
	return reconcile.Kind[obj, *attempt]{
		GVK:           api.OCIRepositoryKind,
		New:           func() obj { return &sourcev1.OCIRepository{} },
		Suspended:     func(o obj) bool { return o.Spec.Suspend },
		Interval:      func(o obj) time.Duration { return o.Spec.Interval.Duration },
		RetryInterval: func(o obj) time.Duration { return o.Spec.Interval.Duration },
		Timeout:       func(o obj) time.Duration { return source.Timeout(o.Spec.Timeout) + source.StoreTimeout },
		Observed:      func(o obj) *int64 { return &o.Status.ObservedGeneration },
		Handled:       func(o obj) *meta.ReconcileRequestStatus { return &o.Status.ReconcileRequestStatus },
		Begin:         o.begin,
		Steps:         o.steps,
		Cleanup:       []reconcile.Step[*attempt]{{Name: "remove", Do: o.remove}},
		Report:        o.report,
		After:         o.announce,
		EventMetadata: func(*attempt) map[string]string { return nil }, // a fault belongs to no revision
		Gone:          o.gone,
	}
}

const (
	stepResolve = "resolve"
	stepVerify  = "verify"
	stepStore   = "store"
)

func (o *repositories) steps(*attempt) []reconcile.Step[*attempt] {
	return []reconcile.Step[*attempt]{
		{Name: "check", Do: o.check},                               // refuse what cannot be used
		{Name: "credentials", Do: o.credentials},                   // read the Secrets
		{Name: stepResolve, Progress: fetching, Do: o.resolve},     // what does the reference stand for?
		{Name: stepVerify, Progress: building, Do: o.verify},       // is that signed?
		{Name: stepStore, Progress: building, Do: o.storeArtifact}, // get exactly that
	}
}

func fetching(*attempt) string { return "reconciliation in progress" }

func building(a *attempt) string { return "building artifact: " + newRevision(a) }

func (o *repositories) begin(_ context.Context, run *reconcile.Run[*sourcev1.OCIRepository]) *attempt {
	obj := run.Obj.DeepCopy()
	a := &attempt{run: run, obj: obj, began: o.now(), budget: o.budget(), Before: source.Begin(o.store, sourcev1.OCIRepositoryKind, obj)}
	if c := reconcile.Condition(obj, sourcev1.SourceVerifiedCondition); c != nil {
		a.Failing = a.Failing || c.Status == metav1.ConditionFalse
		a.trusted = c.Status == metav1.ConditionTrue && c.ObservedGeneration == obj.Generation
	}
	return a
}

// file is the name of the artifact. Flux's has a colon in it.
func (a *attempt) file() string { return a.target.Digest + ".tar.gz" }

// within bounds the network's part of the run.
func (a *attempt) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(source.WithBudget(ctx, a.budget), source.Timeout(a.obj.Spec.Timeout))
}

// unchanged reports whether what is stored is what would be stored again.
func (a *attempt) unchanged() bool {
	return a.Stored != nil && a.Stored.Revision == a.revision &&
		equality.Semantic.DeepEqual(a.obj.Spec.Ignore, a.obj.Status.ObservedIgnore) &&
		equality.Semantic.DeepEqual(a.obj.Spec.LayerSelector, a.obj.Status.ObservedLayerSelector)
}

// fresh says how old an answer of the registry may be that others have asked for.
//
// In an ordinary run that is a little less than the interval, so that of the objects that share a tag one asks per interval,
// and wakes the rest when there is something new. When a user or a webhook asks for the run, it is the time of the request,
// as far as that can be told: clocks differ, so a time that is more than errorLife ago is not believed.
func (a *attempt) fresh() time.Time {
	recent := a.began.Add(-errorLife)
	asked := a.run.RequestedAt != "" && a.run.RequestedAt != a.obj.Status.GetLastHandledReconcileRequest()
	switch {
	case asked:
		if at, err := time.Parse(time.RFC3339Nano, a.run.RequestedAt); err == nil && at.After(recent) && at.Before(a.began) {
			return at
		}
		return a.began
	case a.Failing || a.obj.Status.ObservedGeneration != a.obj.Generation:
		return recent
	}
	return a.began.Add(-a.obj.Spec.Interval.Duration * 9 / 10)
}

func (o *repositories) check(_ context.Context, a *attempt) error {
	spec := &a.obj.Spec
	if _, err := parseRepository(spec.URL, spec.Insecure); err != nil {
		return fault(fmt.Errorf("spec.url: %w", err))
	}
	var err error
	if a.selector, err = parseSelector(spec.Reference); err != nil {
		return fault(err)
	}
	if operation := a.obj.GetLayerOperation(); operation != sourcev1.OCILayerExtract && operation != sourcev1.OCILayerCopy {
		return api.Faultf(sourcev1.OCILayerOperationFailedReason, api.RetryNever, "spec.layerSelector.operation %q is neither extract nor copy", operation)
	}
	return o.checkCloud(a)
}

// credentials reads all Secrets that the object names.
func (o *repositories) credentials(ctx context.Context, a *attempt) error {
	ctx, cancel := a.within(ctx)
	defer cancel()
	spec := &a.obj.Spec
	to := remote{insecure: spec.Insecure}
	var err error
	if to.repository, err = parseRepository(spec.URL, spec.Insecure); err != nil {
		return fault(fmt.Errorf("spec.url: %w", err))
	}
	if spec.CertSecretRef != nil {
		if to.tls, err = secret(ctx, o, a, spec.CertSecretRef.Name, "spec.certSecretRef", source.TLSFrom); err != nil {
			return err
		}
	}
	if spec.ProxySecretRef != nil {
		if to.proxy, err = secret(ctx, o, a, spec.ProxySecretRef.Name, "spec.proxySecretRef", source.ProxyFrom); err != nil {
			return err
		}
	}
	if a.cloud() {
		to.auth, err = o.cloudLogin(ctx, spec.Provider, a.obj.Namespace, spec.ServiceAccountName, to)
	} else {
		to.auth, to.confided, err = o.logins(ctx, a, to.repository)
	}
	if err != nil {
		return fault(err)
	}
	if a.session, err = o.registries.session(to); err != nil {
		return fault(err)
	}
	return o.readPolicy(ctx, a)
}

// secret reads one Secret and what parse makes of it.
func secret[T any](ctx context.Context, o *repositories, a *attempt, name, field string, parse func(map[string][]byte) (T, error)) (T, error) {
	var none T
	data, err := source.Secret(ctx, o.secrets, a.obj.Namespace, name, field)
	if err != nil {
		return none, err
	}
	parsed, err := parse(data)
	if err != nil {
		return none, fault(fmt.Errorf("using the Secret %s/%s of %s: %w", a.obj.Namespace, name, field, err))
	}
	return parsed, nil
}

// logins finds the credentials for the repository in spec.secretRef and in the pull secrets of spec.serviceAccountName,
// and the other hosts for which there are the same.
func (o *repositories) logins(ctx context.Context, a *attempt, repository name.Repository) (authn.AuthConfig, []string, error) {
	var all keychain
	if ref := a.obj.Spec.SecretRef; ref != nil {
		chain, err := secret(ctx, o, a, ref.Name, "spec.secretRef", keychainFrom)
		if err != nil {
			return authn.AuthConfig{}, nil, err
		}
		all = append(all, chain...)
	}
	if account := a.obj.Spec.ServiceAccountName; account != "" {
		chain, err := o.pullSecrets(ctx, a, account)
		if err != nil {
			return authn.AuthConfig{}, nil, err
		}
		all = append(all, chain...)
	}
	auth, confided := all.logIn(repository)
	return auth, confided, nil
}

func (o *repositories) pullSecrets(ctx context.Context, a *attempt, account string) (keychain, error) {
	key := types.NamespacedName{Namespace: a.obj.Namespace, Name: account}
	var sa corev1.ServiceAccount
	if err := o.secrets.Get(ctx, key, &sa); err != nil {
		return nil, readingAccount(key, err)
	}
	var all keychain
	for _, ref := range sa.ImagePullSecrets {
		chain, err := secret(ctx, o, a, ref.Name, "the imagePullSecrets of ServiceAccount "+account, keychainFrom)
		if err != nil {
			return nil, err
		}
		all = append(all, chain...)
	}
	return all, nil
}

func (o *repositories) readPolicy(ctx context.Context, a *attempt) error {
	v := a.obj.Spec.Verify
	if v == nil {
		return nil
	}
	data := func(ref *meta.LocalObjectReference, field string) (map[string][]byte, error) {
		if ref == nil {
			return nil, nil
		}
		data, err := source.Secret(ctx, o.secrets, a.obj.Namespace, ref.Name, field)
		if data == nil {
			data = map[string][]byte{} // it is there, and empty: that must not pass for no reference at all
		}
		return data, err
	}
	keys, err := data(v.SecretRef, "spec.verify.secretRef")
	if err != nil {
		return err
	}
	trustedRoot, err := data(v.TrustedRootSecretRef, "spec.verify.trustedRootSecretRef")
	if err != nil {
		return err
	}
	if a.policy, err = o.parsePolicy(v, keys, trustedRoot); err != nil {
		return fault(err)
	}
	return nil
}

// resolve finds out what the reference stands for now. It downloads nothing.
func (o *repositories) resolve(ctx context.Context, a *attempt) error {
	ctx, cancel := a.within(ctx)
	defer cancel()
	if digest := a.selector.digest; digest != "" {
		a.target.Digest, a.revision = digest, revision("", digest)
		if a.unchanged() && (a.policy == nil || a.trusted) {
			return nil // a digest stands for itself
		}
	}
	tag := a.selector.tag
	if a.selector.semver != nil {
		tags, err := a.session.listTags(ctx, a.fresh())
		if err != nil {
			return fault(fmt.Errorf("listing the tags of %s: %w", a.obj.Spec.URL, err))
		}
		if tag, err = a.selector.highest(tags); err != nil {
			return fault(fmt.Errorf("looking at the tags of %s: %w", a.obj.Spec.URL, err))
		}
	}
	reference := tag
	if a.selector.digest != "" {
		reference = a.selector.digest
	}
	target, err := a.session.head(ctx, reference, a.fresh())
	if errors.Is(err, errNotFound) {
		err = fmt.Errorf("the registry answers 404: there is no such artifact, or these credentials may not read it")
	}
	if err == nil && a.selector.digest != "" && target.Digest != a.selector.digest {
		err = fmt.Errorf("the registry says that it is %s", target.Digest)
	}
	if err != nil {
		return fault(fmt.Errorf("looking up %s of %s: %w", reference, a.obj.Spec.URL, err))
	}
	a.target, a.revision = target, revision(tag, target.Digest)
	if a.selector.semver == nil && tag != "" {
		o.tellOthers(a, tag)
	}
	return nil
}

func (o *repositories) tellOthers(a *attempt, tag string) {
	for _, other := range o.followers.see(client.ObjectKeyFromObject(a.obj), followed{a.session.id, tag}, a.target.Digest) {
		o.waker.Wake(other)
	}
}

// verify looks for a signature of the very digest that is pulled afterwards.
func (o *repositories) verify(ctx context.Context, a *attempt) error {
	if a.policy == nil || a.trusted && a.unchanged() {
		return nil
	}
	ctx, cancel := a.within(ctx)
	defer cancel()
	a.trusted = false
	digest, err := v1.NewHash(a.target.Digest)
	if err != nil {
		return fault(err)
	}
	target := v1.Descriptor{MediaType: a.target.MediaType, Digest: digest, Size: a.target.Size}
	// A signature is made after its artifact, so "none" is true for seconds only.
	switch err := a.policy.verify(ctx, a.session, target, a.began.Add(-errorLife)); {
	case errors.Is(err, errSkipped):
		a.skipped = true
	case errors.Is(err, source.ErrAuthentication):
		return fault(err)
	case err != nil:
		return &api.Fault{Reason: sourcev1.VerificationError, Retry: api.RetryBackoff,
			Err: fmt.Errorf("verifying %s of %s: %w", a.revision, a.obj.Spec.URL, err)}
	default:
		a.verified = fmt.Sprintf("verified signature of revision %s%s", a.revision, a.policy.told())
	}
	return nil
}

// storeArtifact downloads the layer and publishes what is made of it.
func (o *repositories) storeArtifact(ctx context.Context, a *attempt) error {
	if a.unchanged() {
		a.artifact = a.Stored
		return nil
	}
	network, cancel := a.within(ctx)
	defer cancel()
	m, err := a.session.image(network, a.target)
	if err != nil {
		return fault(err)
	}
	if err := checkAnnotations(m.Annotations); err != nil {
		return fault(err)
	}
	layer, err := selectLayer(m, a.obj.GetLayerMediaType(), o.store.Limits().Bytes)
	if err != nil {
		return fault(err)
	}
	if err := o.publish(network, a, layer); err != nil {
		return err
	}
	a.artifact.Metadata = m.Annotations
	return nil
}

// maxAnnotations is how much of a manifest's annotations a status can hold; Kubernetes allows as much for its own.
const maxAnnotations = 256 << 10

func checkAnnotations(all map[string]string) error {
	n := 0
	for k, v := range all {
		n += len(k) + len(v)
	}
	if n > maxAnnotations {
		return fmt.Errorf("%w: the manifest has %d bytes of annotations, at most %d are kept", errLayer, n, maxAnnotations)
	}
	return nil
}

// publish makes the layer the object's artifact. Of the objects that want the same made of the same layer one downloads it.
func (o *repositories) publish(network context.Context, a *attempt, layer v1.Descriptor) error {
	key := contentKey{session: a.session.id, layer: layer.Digest.String(), operation: a.obj.GetLayerOperation()}
	if ignore := a.obj.Spec.Ignore; ignore != nil {
		key.ignore = "=" + *ignore // "" is another thing than none
	}
	for {
		digest, err := o.contents.do(network, key, a.began.Add(-answerLife), o.now(), func() (string, error) { return o.download(network, a, layer) })
		if err != nil || a.artifact != nil {
			return err
		}
		if a.artifact, err = o.publishStored(a, digest); err == nil || !errors.Is(err, artifact.ErrNotFound) {
			return err
		}
		o.contents.forget(key) // whoever had it is gone, and his artifact with him
	}
}

func (o *repositories) download(network context.Context, a *attempt, layer v1.Descriptor) (string, error) {
	f, remove, err := o.pull(network, a.session, layer)
	if err != nil {
		if _, disk := errors.AsType[*writeError](err); disk {
			a.failed = sourcev1.StorageOperationFailedCondition
			return "", source.StoreFault(err)
		}
		return "", fault(err)
	}
	defer remove()
	if a.artifact, err = o.publishLayer(a, f); err != nil {
		a.failed = sourcev1.StorageOperationFailedCondition
		return "", err
	}
	return a.artifact.Digest, nil
}

func (o *repositories) publishStored(a *attempt, digest string) (*meta.Artifact, error) {
	return a.PublishStored(o.store, a.file(), a.revision, digest)
}

func (o *repositories) announce(a *attempt, end reconcile.Outcome) {
	if !end.Succeeded() {
		return // the loop tells of faults
	}
	message := artifactMessage(a.artifact, a.obj.Spec.URL)
	a.AnnounceAs(o.recorder, a.run.Obj, end, a.artifact, reconcile.Success{Reason: "NewArtifact", Message: message},
		reconcile.Success{Reason: meta.SucceededReason, Message: message})
}

// remove runs when an object that Flux had put its finalizer on is deleted.
func (o *repositories) remove(_ context.Context, a *attempt) error { return a.Remove(o.store) }

func (o *repositories) gone(key types.NamespacedName) {
	o.followers.forget(key)
	if err := source.Remove(o.store, sourcev1.OCIRepositoryKind, key); err != nil {
		// The next start of the agent finds what is left.
		o.log.Error("removing artifacts", "kind", sourcev1.OCIRepositoryKind, "name", key.Name, "namespace", key.Namespace, "error", err)
	}
}

// report fills the status as Flux does for the same outcome.
func (o *repositories) report(a *attempt, end reconcile.Outcome) reconcile.Success {
	obj := a.run.Obj
	outcome := source.Outcome{Outcome: end, Artifact: a.artifact, Failed: a.failed}
	if end.Step == stepStore {
		outcome.Outdated = newRevision(a)
	}
	if end.Succeeded() {
		outcome.Success = reconcile.Success{Reason: meta.SucceededReason, Message: storedMessage(a.artifact)}
	}
	var success reconcile.Success
	obj.Status.Artifact, success = a.Report(obj, outcome)
	reportVerification(a, end)
	if !end.Succeeded() {
		return success
	}
	obj.Status.URL = o.store.URL(latest(a.artifact.Path))
	obj.Status.ObservedIgnore, obj.Status.ObservedLayerSelector = a.obj.Spec.Ignore, a.obj.Spec.LayerSelector
	return success
}

func reportVerification(a *attempt, end reconcile.Outcome) {
	obj := a.run.Obj
	switch {
	case a.obj.Spec.Verify == nil || a.skipped:
		reconcile.RemoveCondition(obj, sourcev1.SourceVerifiedCondition)
	case end.Fault != nil && end.Step == stepVerify:
		reconcile.RemoveCondition(obj, sourcev1.FetchFailedCondition) // fetching is not what failed
		reconcile.SetCondition(obj, sourcev1.SourceVerifiedCondition, metav1.ConditionFalse, end.Fault.Reason, end.Fault.Error())
	case a.verified != "":
		reconcile.SetCondition(obj, sourcev1.SourceVerifiedCondition, metav1.ConditionTrue, meta.SucceededReason, a.verified)
	default:
		// Nothing was looked at: what is known of what is stored remains true.
	}
}
