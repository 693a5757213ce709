package webhook

import (
	"fmt"
	"slices"

	notificationv1 "github.com/fluxcd/notification-controller/api/v1"
	"github.com/fluxcd/pkg/apis/acl"
	"github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/expr"
)

// rule is one entry of spec.resources: which objects a hook has looked at again.
type rule struct {
	kind      schema.GroupVersionKind
	namespace string
	// name is that of one object; when it is empty, labels choose.
	name   string
	labels map[string]string
	// filters must all be true of an object: that of the Receiver, and that of the entry.
	filters []*expr.Expr
}

// The variables of filters: the metadata of an object, the payload, and the claims of the caller's token.
const (
	objectVar  = "res"
	payloadVar = "req"
	claimsVar  = "claims"
	// variablesVar holds what spec.oidcProviders[].variables come to.
	variablesVar = "vars"
)

// trust is one entry of spec.oidcProviders: whose tokens are believed, and what they must claim.
type trust struct {
	issuer, audience string
	variables        []variable
	validations      []validation
}

type variable struct {
	name  string
	value *expr.Expr
}

type validation struct {
	holds   *expr.Expr
	message string
}

// rulesOf understands what a Receiver names. The error is a Fault that only another spec can mend.
func rulesOf(r *notificationv1.Receiver, noCrossNamespace bool) ([]rule, error) {
	vars := []string{objectVar, payloadVar}
	if r.Spec.Type == notificationv1.GenericOIDCReceiver {
		vars = append(vars, claimsVar)
	}
	general, err := filter(r.Spec.ResourceFilter, "spec.resourceFilter", vars)
	if err != nil {
		return nil, err
	}
	rules := make([]rule, 0, len(r.Spec.Resources))
	for i, resource := range r.Spec.Resources {
		field := fmt.Sprintf("spec.resources[%d]", i)
		own, err := filter(resource.Filter, field+".filter", vars)
		if err != nil {
			return nil, err
		}
		one := rule{namespace: resource.Namespace, name: resource.Name, filters: slices.Concat(general, own)}
		if one.namespace == "" {
			one.namespace = r.Namespace
		}
		if one.namespace != r.Namespace && noCrossNamespace {
			return nil, api.Faultf(acl.AccessDeniedReason, api.RetryNever,
				"%s names an object of the namespace %s, and references to other namespaces are not allowed", field, one.namespace)
		}
		if one.kind, err = kindOf(resource.APIVersion, resource.Kind); err != nil {
			return nil, invalid("%s: %w", field, err)
		}
		if resource.Name == "*" {
			if len(resource.MatchLabels) == 0 {
				return nil, invalid("%s: the name * needs matchLabels, which say which objects are meant", field)
			}
			one.name, one.labels = "", resource.MatchLabels
		}
		rules = append(rules, one)
	}
	return rules, nil
}

func invalid(format string, args ...any) error {
	return api.Faultf(notificationv1.ValidationFailedReason, api.RetryNever, format, args...)
}

// filter compiles an expression; one that is empty lets everything through.
func filter(text, field string, vars []string) ([]*expr.Expr, error) {
	if text == "" {
		return nil, nil
	}
	e, err := expr.Compile(text, vars...)
	if err != nil {
		return nil, inexpressible(field, err)
	}
	return []*expr.Expr{e}, nil
}

func inexpressible(field string, err error) error {
	return api.Faultf(meta.InvalidCELExpressionReason, api.RetryNever, "%s cannot be understood: %w", field, err)
}

// kindOf returns the kind that is meant. Only kinds that are there to be fetched can be named without their version.
func kindOf(version, kind string) (schema.GroupVersionKind, error) {
	if version == "" {
		switch kind {
		case "Bucket", "GitRepository", "HelmChart", "HelmRepository", "OCIRepository":
			version = api.GitRepositoryKind.GroupVersion().String()
		case "ImageRepository":
			version = "image.toolkit.fluxcd.io/v1"
		case "ArtifactGenerator":
			version = "source.extensions.fluxcd.io/v1beta1"
		default:
			return schema.GroupVersionKind{}, fmt.Errorf("objects of the kind %s need apiVersion", kind)
		}
	}
	group, err := schema.ParseGroupVersion(version)
	if err != nil || group.Group == "" {
		return schema.GroupVersionKind{}, fmt.Errorf("apiVersion %q is not GROUP/VERSION", version)
	}
	return group.WithKind(kind), nil
}

// trusts understands spec.oidcProviders.
func trusts(r *notificationv1.Receiver) ([]trust, error) {
	if r.Spec.Type != notificationv1.GenericOIDCReceiver {
		return nil, nil
	}
	if len(r.Spec.OIDCProviders) == 0 {
		return nil, invalid("spec.oidcProviders is empty, so that nobody could call")
	}
	all := make([]trust, 0, len(r.Spec.OIDCProviders))
	for i := range r.Spec.OIDCProviders {
		p := &r.Spec.OIDCProviders[i]
		one := trust{issuer: p.IssuerURL, audience: p.GetAudience()}
		field := fmt.Sprintf("spec.oidcProviders[%d]", i)
		for j, v := range p.Variables {
			value, err := expr.CompileValue(v.Expression, claimsVar, variablesVar)
			if err != nil {
				return nil, inexpressible(fmt.Sprintf("%s.variables[%d].expression", field, j), err)
			}
			one.variables = append(one.variables, variable{name: v.Name, value: value})
		}
		for j, v := range p.Validations {
			holds, err := expr.Compile(v.Expression, claimsVar, variablesVar)
			if err != nil {
				return nil, inexpressible(fmt.Sprintf("%s.validations[%d].expression", field, j), err)
			}
			one.validations = append(one.validations, validation{holds: holds, message: v.Message})
		}
		if len(one.validations) == 0 {
			return nil, invalid("%s.validations is empty, so that whoever gets tokens of this issuer could call", field)
		}
		all = append(all, one)
	}
	return all, nil
}

// look is one hook that is to be acted on: what it says, for the filters.
type look struct {
	payload, claims map[string]any
}

// chooses says whether the filters let an object through.
func (r *rule) chooses(object map[string]any, l look) (bool, error) {
	vars := map[string]any{objectVar: object, payloadVar: orEmpty(l.payload), claimsVar: orEmpty(l.claims)}
	for _, f := range r.filters {
		if yes, err := f.True(vars); err != nil || !yes {
			return false, err
		}
	}
	return true, nil
}

func orEmpty(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

// named returns the object that a rule without filters names, which need not be read.
func (r *rule) named() (target, bool) {
	return target{r.kind, types.NamespacedName{Namespace: r.namespace, Name: r.name}}, r.name != "" && len(r.filters) == 0
}
