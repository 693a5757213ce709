package oci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	corev1 "k8s.io/api/core/v1"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/source"
)

// The media types of a chart's archive, and the one that Helm's experimental versions wrote.
const (
	chartLayer       = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
	chartLayerLegacy = "application/tar+gzip"
)

// Charts reads Helm charts from registries, for HelmCharts. Its methods may be called concurrently.
type Charts struct{ r *repositories }

// NewCharts uses of the options the Network, the Secrets, Clouds, PublicRoot and Now.
func NewCharts(o Options) *Charts {
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &repositories{
		secrets: o.Secrets, network: o.Network, now: o.Now, publicRoot: o.PublicRoot,
		registries: &registries{network: o.Network, now: o.Now, open: map[string]*session{}},
	}
	r.tokens = newTokens(o, &r.running)
	if r.publicRoot == nil {
		r.publicRoot = (&publicGood{network: o.Network, now: o.Now, running: &r.running}).root
	}
	return &Charts{r}
}

// Chart is a chart in a registry as one object reaches it.
type Chart struct {
	URL      string // oci://host/path/name
	Insecure bool   // speaks http
	// Secret holds a docker configuration, or username and password for the URL's host; nil is anonymous.
	Secret map[string][]byte
	// Provider is asked for credentials of the agent when there is no Secret: aws, azure or gcp; "" and generic ask nobody.
	Provider string
	TLS      source.TLS
	// Verify says whose signature is needed, nil for none. Its Secrets are in Namespace.
	Verify    *sourcev1.OCIRepositoryVerification
	Namespace string
	// Asked is when somebody asked for the chart by hand, who wants no answer of before then; zero when nobody did.
	Asked time.Time
}

// pollShared is how old an answer may be that a chart takes over from another that has just asked.
const pollShared = 5 * time.Second

// notBefore is how old an answer about the chart may be.
func (c *Charts) notBefore(at Chart) time.Time {
	shared := c.r.now().Add(-pollShared)
	if at.Asked.After(shared) {
		return at.Asked
	}
	return shared
}

// Tags lists the tags of a chart's repository.
func (c *Charts) Tags(ctx context.Context, at Chart) ([]string, error) {
	s, err := c.session(ctx, at)
	if err != nil {
		return nil, err
	}
	tags, err := source.Detached(ctx, &c.r.running, func() ([]string, error) {
		return s.listTags(ctx, c.notBefore(at))
	}, func([]string) {})
	if err != nil {
		return nil, chartFault(fmt.Errorf("listing the tags of %s: %w", at.URL, found(source.Steady(err))))
	}
	return tags, nil
}

// Pull finds out the digest of a tag, verifies it if at asks for that, and returns the archive of that digest: a tag that
// moves meanwhile changes nothing. It is source.ErrLimit when the archive is larger than most bytes.
func (c *Charts) Pull(ctx context.Context, at Chart, tag string, most int64) ([]byte, error) {
	s, err := c.session(ctx, at)
	if err != nil {
		return nil, err
	}
	p, err := c.policy(ctx, at)
	if err != nil {
		return nil, err
	}
	archive, err := source.Detached(ctx, &c.r.running, func() ([]byte, error) {
		return c.pull(ctx, s, p, tag, most, c.notBefore(at))
	}, func([]byte) {})
	if err != nil {
		return nil, chartFault(fmt.Errorf("pulling %s of %s: %w", tag, at.URL, found(source.Steady(err))))
	}
	return archive, nil
}

func (c *Charts) pull(ctx context.Context, s *session, p policy, tag string, most int64, notBefore time.Time) ([]byte, error) {
	target, err := s.head(ctx, tag, notBefore)
	if err != nil {
		return nil, err
	}
	if p != nil {
		if err := c.verify(ctx, s, p, target); err != nil {
			return nil, err
		}
	}
	m, err := s.image(ctx, target)
	if err != nil {
		return nil, err
	}
	layer, err := layerOf(m)
	if err != nil {
		return nil, err
	}
	if layer.Size < 0 || layer.Size > most {
		return nil, fmt.Errorf("%w: the chart is larger than %d bytes (--helm-chart-max-size)", source.ErrLimit, most)
	}
	var archive bytes.Buffer
	if err := s.download(ctx, layer, &archive); err != nil {
		return nil, err
	}
	return archive.Bytes(), nil
}

func layerOf(m *v1.Manifest) (v1.Descriptor, error) {
	for _, kind := range []types.MediaType{chartLayer, chartLayerLegacy} {
		for _, l := range m.Layers {
			if l.MediaType == kind {
				return l, nil
			}
		}
	}
	return v1.Descriptor{}, fmt.Errorf("%w: it is no Helm chart, none of its layers has the type %s", errLayer, chartLayer)
}

// verify looks for a signature of the very digest that is pulled afterwards. There is no policy that a HelmChart can name
// and that would let an unsigned chart pass but notation's own "skip".
func (c *Charts) verify(ctx context.Context, s *session, p policy, target descriptor) error {
	digest, err := v1.NewHash(target.Digest)
	if err != nil {
		return err
	}
	err = p.verify(ctx, s, v1.Descriptor{MediaType: target.MediaType, Digest: digest, Size: target.Size}, c.r.now().Add(-pollShared))
	switch {
	case err == nil, errors.Is(err, errSkipped):
		return nil
	case errors.Is(err, source.ErrAuthentication):
		return err
	}
	return &api.Fault{Reason: sourcev1.VerificationError, Retry: api.RetryBackoff, Err: fmt.Errorf("verifying %s: %w", target.Digest, err)}
}

func (c *Charts) policy(ctx context.Context, at Chart) (policy, error) {
	if at.Verify == nil {
		return nil, nil
	}
	// Of an attempt, reading a policy looks at the namespace and at spec.verify.
	a := &attempt{obj: &sourcev1.OCIRepository{}}
	a.obj.Namespace, a.obj.Spec.Verify = at.Namespace, at.Verify
	err := c.r.readPolicy(ctx, a)
	if err == nil && a.policy == nil {
		err = fault(fmt.Errorf("%w: spec.verify names no one to trust", errPolicy)) // never let pass what was to be verified
	}
	return a.policy, err
}

func (c *Charts) session(ctx context.Context, at Chart) (*session, error) {
	repository, err := parseRepository(at.URL, at.Insecure)
	if err != nil {
		return nil, chartFault(fmt.Errorf("the URL %s: %w", at.URL, err))
	}
	to := remote{repository: repository, insecure: at.Insecure, tls: at.TLS}
	switch {
	case !isCloud(at.Provider, at.Secret != nil):
		err = to.logIn(at.Secret)
	case at.Insecure:
		err = api.Faultf(api.UnsupportedReason, api.RetryNever, "%w", errPlainCloud)
	default:
		to.auth, err = c.r.cloudLogin(ctx, at.Provider, at.Namespace, "", to)
	}
	if err != nil {
		return nil, chartFault(err)
	}
	return c.r.registries.session(to)
}

// logIn takes the credentials of a Secret; one that has none is anonymous.
func (r *remote) logIn(secret map[string][]byte) error {
	using := func(err error) error { return fmt.Errorf("using the Secret of spec.secretRef: %w", err) }
	if _, basic := secret["username"]; basic {
		credentials, err := source.CredentialsFrom(secret)
		if err != nil {
			return using(err)
		}
		r.auth = authn.AuthConfig{Username: credentials.Username, Password: credentials.Password}
		return nil
	}
	if !isDockerConfig(secret) {
		return nil
	}
	chain, err := keychainFrom(secret)
	if err != nil {
		return using(err)
	}
	r.auth, r.confided = chain.logIn(r.repository)
	return nil
}

func isDockerConfig(data map[string][]byte) bool {
	_, current := data[corev1.DockerConfigJsonKey]
	_, old := data[corev1.DockerConfigKey]
	return current || old
}

// found says of what a registry does not have that it could be hidden as well.
func found(err error) error {
	if errors.Is(err, errNotFound) {
		return fmt.Errorf("%w: there is no such chart, or these credentials may not read it", errNotFound)
	}
	return err
}

// chartFault is a Fault with Flux's reasons for HelmCharts.
func chartFault(err error) error {
	switch {
	case errors.Is(err, source.ErrURL), errors.Is(err, errNotFound):
		// It is the HelmRepository, or what somebody pushes, that has to change.
		return &api.Fault{Reason: "InvalidChartReference", Retry: api.RetryInterval, Err: err}
	case errors.Is(err, errLayer), errors.Is(err, source.ErrLimit):
		return &api.Fault{Reason: "ChartPullError", Retry: api.RetryInterval, Err: err}
	}
	if f, ok := errors.AsType[*api.Fault](err); ok {
		return &api.Fault{Reason: f.Reason, Retry: f.Retry, After: f.After, Err: err}
	}
	return source.FetchFault(err, "ChartPullError")
}
