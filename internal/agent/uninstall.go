package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/fluxcd/pkg/ssa"
	"github.com/spf13/cobra"
	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
)

// errStillLed means: an agent acts, and would prune what is about to lose its Kustomization.
var errStillLed = errors.New("an agent or Flux still acts")

// uninstallOptions are the options of `cleat uninstall`.
type uninstallOptions struct {
	site
	keepCRDs bool
}

func uninstallCommand(env map[string]string) *cobra.Command {
	var o uninstallOptions
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove the agent, the CRDs and their objects, and keep all that was ever applied.",
		Long: "Remove the agent, the CRDs and their objects, and keep all that was ever applied.\n\n" +
			"First the agent is ended, then the finalizers are taken off its objects, so that nobody prunes or uninstalls anything\n" +
			"when they go. The namespace stays, for what else is in it.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
			defer cancel()
			c, applier, err := o.connect(env)
			if err != nil {
				return err
			}
			return o.run(ctx, uninstaller{c, applier, o.site, cmd.OutOrStdout()})
		},
	}
	o.register(cmd.Flags())
	cmd.Flags().BoolVar(&o.keepCRDs, "keep-crds", false, "keep the CRDs and their objects as they are, for another agent or Flux to go on with")
	return cmd
}

// run removes things in the only order in which nothing is pruned.
func (o *uninstallOptions) run(ctx context.Context, u uninstaller) error {
	steps := []func(context.Context) error{u.endAgent}
	if !o.keepCRDs {
		steps = append(steps, u.nobodyLeads, u.clearFinalizers, u.removeCRDs)
	}
	for _, step := range append(steps, u.removeRest) {
		if err := step(ctx); err != nil {
			return err
		}
	}
	fmt.Fprintf(u.out, "the agent is gone; namespace %s and all that was applied are still there\n", o.namespace)
	return nil
}

// uninstaller removes what `cleat install` has made.
type uninstaller struct {
	client  client.Client
	applier *ssa.ResourceManager
	site    site
	out     io.Writer
}

// endAgent deletes the Deployments and returns when their pods have ended.
func (u uninstaller) endAgent(ctx context.Context) error {
	deployments, err := u.ours(ctx, schema.GroupVersionKind{Group: "apps", Version: "v1", Kind: "Deployment"})
	if err != nil {
		return err
	}
	return u.remove(ctx, deployments)
}

// nobodyLeads refuses to go on while somebody holds a leader lease.
func (u uninstaller) nobodyLeads(ctx context.Context) error {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(coordinationv1.SchemeGroupVersion.WithKind("LeaseList"))
	if err := u.client.List(ctx, list, client.InNamespace(u.site.namespace)); err != nil {
		return fmt.Errorf("listing the leader leases: %w", err)
	}
	for i := range list.Items {
		var lease coordinationv1.Lease
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &lease); err != nil {
			return fmt.Errorf("reading Lease/%s: %w", list.Items[i].GetName(), err)
		}
		if strings.Contains(lease.Name, "-controller-leader-election") && held(lease.Spec, time.Now()) {
			return fmt.Errorf("%w: %s holds Lease/%s/%s and would prune what loses its Kustomization; end it, or wait until the lease has run out",
				errStillLed, *lease.Spec.HolderIdentity, lease.Namespace, lease.Name)
		}
	}
	return nil
}

// held says whether a lease has a holder that has renewed it lately.
func held(lease coordinationv1.LeaseSpec, now time.Time) bool {
	if lease.HolderIdentity == nil || *lease.HolderIdentity == "" || lease.RenewTime == nil || lease.LeaseDurationSeconds == nil {
		return false
	}
	return lease.RenewTime.Add(time.Duration(*lease.LeaseDurationSeconds) * time.Second).After(now)
}

// ownKinds are all kinds that are served here.
func ownKinds() []schema.GroupVersionKind {
	return append(slices.Clone(sourceKinds), api.KustomizationKind, api.HelmReleaseKind, api.ReceiverKind, api.AlertKind, api.ProviderKind)
}

// clearFinalizers takes our finalizer, which is Flux's, off all objects of our kinds. Those of others are theirs.
func (u uninstaller) clearFinalizers(ctx context.Context) error {
	for _, kind := range ownKinds() {
		list := &metav1.PartialObjectMetadataList{}
		list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
		err := u.client.List(ctx, list)
		if meta.IsNoMatchError(err) || apierrors.IsNotFound(err) {
			continue // there are none without their CRD
		}
		if err != nil {
			return fmt.Errorf("listing objects of the kind %s: %w", kind.Kind, err)
		}
		for i := range list.Items {
			if err := u.clear(ctx, kind, &list.Items[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (u uninstaller) clear(ctx context.Context, kind schema.GroupVersionKind, o *metav1.PartialObjectMetadata) error {
	left := slices.DeleteFunc(slices.Clone(o.Finalizers), func(name string) bool { return name == api.Finalizer })
	if len(left) == len(o.Finalizers) {
		return nil // it has none of ours
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": o.UID, "resourceVersion": o.ResourceVersion, "finalizers": left,
	}})
	if err != nil {
		return fmt.Errorf("encoding the finalizers: %w", err)
	}
	o.SetGroupVersionKind(kind)
	if err := u.client.Patch(ctx, o, client.RawPatch(types.MergePatchType, patch)); client.IgnoreNotFound(err) != nil {
		return fmt.Errorf("taking the finalizer off %s/%s/%s: %w", kind.Kind, o.Namespace, o.Name, err)
	}
	fmt.Fprintf(u.out, "%s/%s/%s let go\n", kind.Kind, o.Namespace, o.Name)
	return nil
}

// removeCRDs deletes the CRDs and with them their objects, which nobody holds up or prunes any more.
func (u uninstaller) removeCRDs(ctx context.Context) error {
	objects, err := buildManifests(ctx, u.site.namespace, imageTag(Version), nil)
	if err != nil {
		return err
	}
	return u.remove(ctx, ofKind(objects, "CustomResourceDefinition"))
}

// removeRest deletes what else carries our label, of all kinds that any overlay has.
func (u uninstaller) removeRest(ctx context.Context) error {
	overlays, err := knownOverlays()
	if err != nil {
		return err
	}
	objects, err := buildManifests(ctx, u.site.namespace, imageTag(Version), overlays)
	if err != nil {
		return err
	}
	var kinds []schema.GroupVersionKind
	for _, object := range objects {
		kind := object.GroupVersionKind()
		if !slices.Contains(kinds, kind) && kind.Kind != "CustomResourceDefinition" && kind.Kind != "Namespace" {
			kinds = append(kinds, kind)
		}
	}
	var found []*unstructured.Unstructured
	for _, kind := range kinds {
		of, err := u.ours(ctx, kind)
		if err != nil {
			return err
		}
		found = append(found, of...)
	}
	return u.remove(ctx, found)
}

// ours returns the objects of a kind that carry our label, in the agent's namespace or cluster-wide.
func (u uninstaller) ours(ctx context.Context, kind schema.GroupVersionKind) ([]*unstructured.Unstructured, error) {
	mapping, err := u.client.RESTMapper().RESTMapping(kind.GroupKind(), kind.Version)
	if meta.IsNoMatchError(err) {
		return nil, nil // Prometheus is not there
	}
	if err != nil {
		return nil, fmt.Errorf("looking for the kind %s: %w", kind.Kind, err)
	}
	options := []client.ListOption{client.MatchingLabels{nameLabel: agentName}}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		options = append(options, client.InNamespace(u.site.namespace))
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(kind.GroupVersion().WithKind(kind.Kind + "List"))
	if err := u.client.List(ctx, list, options...); err != nil {
		return nil, fmt.Errorf("listing objects of the kind %s: %w", kind.Kind, err)
	}
	var found []*unstructured.Unstructured
	for i := range list.Items {
		found = append(found, &list.Items[i])
	}
	return found, nil
}

// remove deletes objects and returns when they and what belongs to them are gone.
func (u uninstaller) remove(ctx context.Context, objects []*unstructured.Unstructured) error {
	if len(objects) == 0 {
		return nil
	}
	options := ssa.DefaultDeleteOptions()
	options.PropagationPolicy = metav1.DeletePropagationForeground
	changes, err := u.applier.DeleteAll(ctx, objects, options)
	if err != nil {
		return fmt.Errorf("deleting: %w", err)
	}
	for _, change := range changes.Entries {
		fmt.Fprintf(u.out, "%s %s\n", change.Subject, change.Action)
	}
	if err := u.applier.WaitForTermination(objects, u.site.waiting()); err != nil {
		return fmt.Errorf("waiting until all is gone: %w", err)
	}
	return nil
}
