package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// oldestKubernetes is the oldest minor version that is not warned of: tests run on no older one.
const oldestKubernetes = "1.33.0-0"

// errIncomplete says that something was found to be missing; what it is has been printed.
var errIncomplete = errors.New("not all is as it should be")

func checkCommand(env map[string]string) *cobra.Command {
	var s site
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Say what an agent in a cluster lacks: versions that do not fit, CRDs, rights, ports.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), s.timeout)
			defer cancel()
			c := checker{namespace: s.namespace, out: cmd.OutOrStdout()}
			config, err := clusterConfig(s.kubeconfig, env)
			if err != nil {
				return err
			}
			if c.server, err = discovery.NewDiscoveryClientForConfig(config); err != nil {
				return fmt.Errorf("making the client: %w", err)
			}
			scheme := runtime.NewScheme()
			for _, add := range []func(*runtime.Scheme) error{
				appsv1.AddToScheme, authorizationv1.AddToScheme, corev1.AddToScheme, discoveryv1.AddToScheme, apiextensionsv1.AddToScheme,
			} {
				if err := add(scheme); err != nil {
					return fmt.Errorf("making the client: %w", err)
				}
			}
			if c.client, err = client.New(config, client.Options{Scheme: scheme}); err != nil {
				return fmt.Errorf("making the client: %w", err)
			}
			return c.run(ctx)
		},
	}
	s.register(cmd.Flags())
	return cmd
}

// checker compares a cluster with what this binary would install.
type checker struct {
	client    client.Client
	server    discovery.ServerVersionInterface
	namespace string
	out       io.Writer
	wrong     int
}

func (c *checker) run(ctx context.Context) error {
	objects, err := buildManifests(ctx, c.namespace, imageTag(Version), nil)
	if err != nil {
		return err
	}
	for _, check := range []func(context.Context, []*unstructured.Unstructured) error{
		c.kubernetes, c.definitions, c.deployments, c.rights, c.ports,
	} {
		if err := check(ctx, objects); err != nil {
			return err
		}
	}
	if c.wrong > 0 {
		return fmt.Errorf("%w: %d of the above", errIncomplete, c.wrong)
	}
	return nil
}

func (c *checker) good(format string, args ...any) { fmt.Fprintf(c.out, "ok    "+format+"\n", args...) }

func (c *checker) bad(format string, args ...any) {
	c.wrong++
	fmt.Fprintf(c.out, "wrong "+format+"\n", args...)
}

// kubernetes looks at the API server's version.
func (c *checker) kubernetes(context.Context, []*unstructured.Unstructured) error {
	info, err := c.server.ServerVersion()
	if err != nil {
		return fmt.Errorf("asking for the version of Kubernetes: %w", err)
	}
	version, err := semver.NewVersion(info.GitVersion)
	if err != nil {
		c.bad("Kubernetes: the version %q cannot be read", info.GitVersion)
		return nil
	}
	if version.LessThan(semver.MustParse(oldestKubernetes)) {
		c.bad("Kubernetes %s is older than what is tested", info.GitVersion)
		return nil
	}
	c.good("Kubernetes %s", info.GitVersion)
	return nil
}

// definitions looks for each CRD, its version, and the release of Flux's API that it is of.
func (c *checker) definitions(ctx context.Context, objects []*unstructured.Unstructured) error {
	const release = "app.kubernetes.io/version"
	before := c.wrong
	for _, object := range ofKind(objects, "CustomResourceDefinition") {
		wanted, live := &apiextensionsv1.CustomResourceDefinition{}, &apiextensionsv1.CustomResourceDefinition{}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, wanted); err != nil {
			return fmt.Errorf("reading CustomResourceDefinition/%s: %w", object.GetName(), err)
		}
		err := c.client.Get(ctx, client.ObjectKeyFromObject(wanted), live)
		switch {
		case apierrors.IsNotFound(err):
			c.bad("CustomResourceDefinition/%s is missing: `cleat install` makes it", wanted.Name)
		case err != nil:
			return fmt.Errorf("reading CustomResourceDefinition/%s: %w", wanted.Name, err)
		case !serves(live, wanted.Spec.Versions):
			c.bad("CustomResourceDefinition/%s does not serve the versions of this agent: `cleat install` brings it to them", wanted.Name)
		case live.Labels[release] != wanted.Labels[release]:
			c.bad("CustomResourceDefinition/%s is of Flux %s, this agent of %s: `cleat install` brings it there", wanted.Name, live.Labels[release], wanted.Labels[release])
		}
	}
	if c.wrong == before {
		c.good("CustomResourceDefinitions")
	}
	return nil
}

func serves(live *apiextensionsv1.CustomResourceDefinition, wanted []apiextensionsv1.CustomResourceDefinitionVersion) bool {
	served := map[string]bool{}
	for _, version := range live.Spec.Versions {
		served[version.Name] = version.Served
	}
	for _, version := range wanted {
		if version.Served && !served[version.Name] {
			return false
		}
	}
	return true
}

// deployments looks whether agents run, and of which version.
func (c *checker) deployments(ctx context.Context, _ []*unstructured.Unstructured) error {
	list := &appsv1.DeploymentList{}
	if err := c.client.List(ctx, list, client.InNamespace(c.namespace), client.MatchingLabels{nameLabel: agentName}); err != nil {
		return fmt.Errorf("listing Deployments: %w", err)
	}
	if len(list.Items) == 0 {
		c.bad("there is no agent in namespace %s: `cleat install` makes one", c.namespace)
	}
	for _, d := range list.Items {
		_, tag, _ := strings.Cut(d.Spec.Template.Spec.Containers[0].Image, ":")
		switch {
		case d.Status.AvailableReplicas == 0:
			c.bad("Deployment/%s has no pod that is ready: `kubectl -n %s describe pods` says why", d.Name, d.Namespace)
		case tag != imageTag(Version):
			c.bad("Deployment/%s runs %s and this is %s", d.Name, tag, imageTag(Version))
		default:
			c.good("Deployment/%s runs %s", d.Name, tag)
		}
	}
	return nil
}

// rights asks the API server for each right of the agent's own roles whether its ServiceAccount has it.
func (c *checker) rights(ctx context.Context, objects []*unstructured.Unstructured) error {
	refused := map[string][]string{} // resource → verbs
	for _, object := range append(ofKind(objects, "ClusterRole"), ofKind(objects, "Role")...) {
		var role rbacv1.ClusterRole // a Role has the same rules
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(object.Object, &role); err != nil {
			return fmt.Errorf("reading %s/%s: %w", object.GetKind(), object.GetName(), err)
		}
		for _, wanted := range attributes(role) {
			allowed, err := c.allowed(ctx, wanted)
			if err != nil {
				return err
			}
			resource := strings.Trim(wanted.Resource+"."+wanted.Group+"/"+wanted.Subresource, "./")
			if !allowed && !slices.Contains(refused[resource], wanted.Verb) {
				refused[resource] = append(refused[resource], wanted.Verb)
			}
		}
	}
	for _, resource := range slices.Sorted(maps.Keys(refused)) {
		slices.Sort(refused[resource])
		c.bad("the agent may not %s %s: `cleat install` lets it", strings.Join(refused[resource], ", "), resource)
	}
	if len(refused) == 0 {
		c.good("rights of ServiceAccount/%s/%s", c.namespace, agentName)
	}
	return nil
}

// attributes are what a role lets one ask for.
func attributes(role rbacv1.ClusterRole) []authorizationv1.ResourceAttributes {
	var all []authorizationv1.ResourceAttributes
	for _, rule := range role.Rules {
		names := rule.ResourceNames
		if len(names) == 0 {
			names = []string{""}
		}
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					for _, name := range names {
						plain, sub, _ := strings.Cut(resource, "/")
						all = append(all, authorizationv1.ResourceAttributes{
							Namespace: role.Namespace, Group: group, Resource: plain, Subresource: sub, Verb: verb, Name: name,
						})
					}
				}
			}
		}
	}
	return all
}

func (c *checker) allowed(ctx context.Context, wanted authorizationv1.ResourceAttributes) (bool, error) {
	review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
		User:               "system:serviceaccount:" + c.namespace + ":" + agentName,
		Groups:             []string{"system:authenticated", "system:serviceaccounts", "system:serviceaccounts:" + c.namespace},
		ResourceAttributes: &wanted,
	}}
	if err := c.client.Create(ctx, review); err != nil {
		return false, fmt.Errorf("asking whether the agent may %s %s: %w", wanted.Verb, wanted.Resource, err)
	}
	return review.Status.Allowed, nil
}

// ports looks whether each Service leads to a port of a pod that is ready.
func (c *checker) ports(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, service := range ofKind(objects, "Service") {
		live := &corev1.Service{}
		err := c.client.Get(ctx, client.ObjectKeyFromObject(service), live)
		if apierrors.IsNotFound(err) {
			c.bad("Service/%s is missing: `cleat install` makes it", service.GetName())
			continue
		}
		if err != nil {
			return fmt.Errorf("reading Service/%s: %w", service.GetName(), err)
		}
		endpoints := &discoveryv1.EndpointSliceList{}
		if err := c.client.List(ctx, endpoints, client.InNamespace(c.namespace), client.MatchingLabels{discoveryv1.LabelServiceName: live.Name}); err != nil {
			return fmt.Errorf("listing the endpoints of Service/%s: %w", live.Name, err)
		}
		if lacks := unled(live, endpoints.Items); lacks != "" {
			c.bad("Service/%s: its port %s leads to no pod that is ready", live.Name, lacks)
			continue
		}
		c.good("Service/%s", live.Name)
	}
	return nil
}

// unled returns the first port of a Service that leads nowhere.
func unled(service *corev1.Service, endpoints []discoveryv1.EndpointSlice) string {
	led := map[string]bool{}
	for _, slice := range endpoints {
		ready := false
		for _, endpoint := range slice.Endpoints {
			ready = ready || endpoint.Conditions.Ready == nil || *endpoint.Conditions.Ready
		}
		for _, port := range slice.Ports {
			if ready && port.Name != nil && port.Port != nil {
				led[*port.Name] = true
			}
		}
	}
	for _, port := range service.Spec.Ports {
		if !led[port.Name] {
			return port.Name
		}
	}
	return ""
}
