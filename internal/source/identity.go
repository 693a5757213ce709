package source

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/aws/smithy-go"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/auth"
	"github.com/fluxcd/pkg/cache"
	"golang.org/x/oauth2"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
)

// Identities gets cloud tokens: for the agent itself, and for the ServiceAccounts that objects name.
type Identities struct {
	// Client reads ServiceAccounts and makes tokens for them.
	Client client.Client
	// Tokens keeps what clouds gave until shortly before it expires; nil keeps nothing.
	Tokens *cache.TokenCache
}

// CheckServiceAccount refuses a spec.serviceAccountName unless the agent was told to let objects have identities of their own:
// for that it makes tokens for any ServiceAccount, a right that not every cluster gives it.
func CheckServiceAccount(name string) error {
	if name == "" || auth.IsObjectLevelWorkloadIdentityEnabled() {
		return nil
	}
	const gate = auth.FeatureGateObjectLevelWorkloadIdentity
	return api.Faultf(meta.FeatureGateDisabledReason, api.RetryNever,
		"spec.serviceAccountName needs the feature gate %s; start the agent with --feature-gates=%s=true, or remove the field", gate, gate)
}

// Identity is who asks a cloud for tokens.
type Identity struct {
	// Account is the ServiceAccount of the object's namespace; empty means the agent itself.
	Account string
	options []auth.Option
}

// Of returns the identity that the object has by the ServiceAccount of that name. Its tokens are asked for through the proxy,
// which sees nothing of it: what a ServiceAccount is exchanged at are the clouds' own endpoints, over https. The agent's own
// identity never passes a proxy of the object's: the metadata services of nodes are not encrypted.
func (i Identities) Of(kind string, object types.NamespacedName, account string, proxy *Proxy) *Identity {
	id := &Identity{Account: account}
	if i.Tokens != nil {
		id.options = append(id.options, auth.WithCache(*i.Tokens, cache.InvolvedObject{
			Kind: kind, Name: object.Name, Namespace: object.Namespace, Operation: cache.OperationReconcile,
		}))
	}
	if account == "" {
		return id
	}
	id.options = append(id.options, auth.WithClient(i.Client), auth.WithServiceAccountName(account), auth.WithServiceAccountNamespace(object.Namespace))
	if proxy != nil {
		id.options = append(id.options, auth.WithProxyURL(*proxy.URL()))
	}
	return id
}

// Options are those of the auth module for this identity, and more.
func (i *Identity) Options(more ...auth.Option) []auth.Option {
	return append(slices.Clone(i.options), more...)
}

// Token gets an access token from the cloud.
func (i *Identity) Token(ctx context.Context, cloud auth.Provider, more ...auth.Option) (auth.Token, error) {
	token, err := auth.GetAccessToken(ctx, cloud, i.Options(more...)...)
	if err != nil {
		return nil, i.Refused(cloud.GetName(), err)
	}
	return token, nil
}

// Refused is the error of a cloud that gives no token, in words that do not change with the request.
func (i *Identity) Refused(cloud string, err error) error {
	whom := "the agent"
	if i.Account != "" {
		whom = fmt.Sprintf("the ServiceAccount %q", i.Account)
	}
	var (
		amazon  smithy.APIError
		azure   *azidentity.AuthenticationFailedError
		answer  *azcore.ResponseError
		google  *oauth2.RetrieveError
		told    = Steady(err).Error()
		anybody = errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	)
	switch {
	case anybody:
		return fmt.Errorf("asking %s for a token for %s: %w", cloud, whom, Steady(err))
	case errors.As(err, &amazon):
		told = amazon.ErrorCode() + ": " + amazon.ErrorMessage()
	case errors.As(err, &azure) && azure.RawResponse != nil:
		told = fmt.Sprintf("it answers %d", azure.RawResponse.StatusCode)
	case errors.As(err, &answer):
		told = fmt.Sprintf("it answers %d: %s", answer.StatusCode, answer.ErrorCode)
	case errors.As(err, &google) && google.Response != nil:
		told = fmt.Sprintf("it answers %d: %s", google.Response.StatusCode, google.ErrorCode)
	}
	return fmt.Errorf("%w: %s gives no token for %s: %s", ErrAuthentication, cloud, whom, OneLine(told))
}
