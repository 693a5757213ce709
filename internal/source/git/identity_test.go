package git

import (
	"strings"
	"testing"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	"github.com/fluxcd/pkg/cache"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"

	"github.com/cleat-dev/cleat/internal/reconcile"
	"github.com/cleat-dev/cleat/internal/source"
	"github.com/cleat-dev/cleat/internal/source/cloudtest"
)

// shown is what a server would be shown for the object, and whose it is.
func (w *world) shown(o *sourcev1.GitRepository) (Remote, error) {
	a := &attempt{obj: o}
	err := w.repositories.credentials(w.t.Context(), a)
	return a.remote, err
}

func TestServiceAccountsOfObjects(t *testing.T) {
	cloudtest.Enable(t)
	codeCommit := func(s *sourcev1.GitRepositorySpec) { s.Provider, s.ServiceAccountName = "aws", "shop" }
	onAWS := gitRepository("https://git-codecommit.eu-west-1.amazonaws.com/v1/repos/shop", codeCommit)
	onAzure := gitRepository("https://dev.azure.com/org/shop", func(s *sourcev1.GitRepositorySpec) { s.Provider, s.ServiceAccountName = "azure", "shop" })
	w := newWorld(t, cloudtest.ServiceAccount("demo", "shop"), cloudtest.ServiceAccount("demo", "web"))
	amazon, sts := cloudtest.AWS(t, "AKID", "s3cret", "session")
	azure, authority := cloudtest.Azure(t, "t0ken")
	tokens, err := cache.NewTokenCache(10)
	if err != nil {
		t.Fatal(err)
	}
	w.repositories.identities = source.Identities{Client: w.client, Tokens: tokens}
	w.repositories.clouds = map[string]auth.GitCredentialsProvider{"aws": amazon, "azure": azure}

	first, err := w.shown(onAWS)
	if err != nil {
		t.Fatal(err)
	}
	if c := first.Credentials; c.Username != "AKID%session" || c.Password == "" || strings.Contains(c.Password, "s3cret") {
		t.Errorf("shown to CodeCommit: %+v", c)
	}
	if _, err := w.shown(onAWS); err != nil {
		t.Fatal(err)
	}
	if want := []string{"arn:aws:iam::123456789012:role/shop " + cloudtest.Token}; !cmp.Equal(want, sts.Seen()) {
		t.Errorf("STS was asked %q", sts.Seen())
	}
	second, err := w.shown(onAzure)
	if err != nil || second.Credentials.BearerToken != "t0ken" {
		t.Errorf("shown to Azure: %+v, %v", second.Credentials, err)
	}
	if want := []string{"shop " + cloudtest.Token}; !cmp.Equal(want, authority.Seen()) {
		t.Errorf("the authority was asked %q", authority.Seen())
	}
	// The mirror of one ServiceAccount is for no other, nor for the agent.
	other := onAWS.DeepCopy()
	other.Spec.ServiceAccountName = "web"
	third, err := w.shown(other)
	if err != nil || third.Principal == first.Principal || first.Principal == principal("aws") || first.Principal == "" {
		t.Errorf("principals: %q, %q, %v", first.Principal, third.Principal, err)
	}

	for name, refused := range map[string]func() (Remote, error){
		"no ServiceAccount": func() (Remote, error) {
			o := onAWS.DeepCopy()
			o.Spec.ServiceAccountName = "nobody"
			return w.shown(o)
		},
		"refused by AWS": func() (Remote, error) {
			sts.Refuse()
			w.repositories.identities.Tokens = nil
			return w.shown(onAWS)
		},
		"refused by Azure": func() (Remote, error) {
			authority.Refuse()
			w.repositories.identities.Tokens = nil // the token of before is good yet
			return w.shown(onAzure)
		},
	} {
		_, err := refused()
		_, again := refused()
		if f := source.FetchFault(err, ""); f.Reason != sourcev1.AuthenticationFailedReason || !strings.Contains(err.Error(), "ServiceAccount") {
			t.Errorf("%s: %v", name, err)
		}
		if err.Error() != again.Error() {
			t.Errorf("%s: the same failure has two texts: %v; %v", name, err, again)
		}
	}
}

func TestServiceAccountsAreBehindAGate(t *testing.T) {
	with := func(provider string) func(*sourcev1.GitRepositorySpec) {
		return func(s *sourcev1.GitRepositorySpec) { s.Provider, s.ServiceAccountName = provider, "shop" }
	}
	w := newWorld(t, gitRepository("https://dev.azure.com/org/shop", with("azure")))
	o, result := w.reconcile()
	if c := reconcile.Condition(o, meta.StalledCondition); c == nil || c.Reason != meta.FeatureGateDisabledReason || result.RequeueAfter != 0 {
		t.Errorf("conditions are %v", conditions(o))
	}
	cloudtest.Enable(t)
	for _, provider := range []string{"", "generic", "github"} {
		w := newWorld(t, gitRepository("http://127.0.0.1:1/x", with(provider)))
		o, _ := w.reconcile()
		if c := reconcile.Condition(o, meta.StalledCondition); c == nil || !strings.Contains(c.Message, "spec.serviceAccountName") {
			t.Errorf("%s: conditions are %v", provider, conditions(o))
		}
	}
}
