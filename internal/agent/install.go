package agent

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/fluxcd/cli-utils/pkg/kstatus/polling"
	"github.com/fluxcd/pkg/ssa"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// installManager is the field manager of what `cleat install` writes.
const installManager = "cleat-install"

// site is where the agent is, or is to be, installed.
type site struct {
	kubeconfig, namespace string
	timeout               time.Duration
}

func (s *site) register(set *pflag.FlagSet) {
	set.StringVar(&s.kubeconfig, "kubeconfig", "", "path to a kubeconfig file; otherwise where kubectl looks")
	set.StringVarP(&s.namespace, "namespace", "n", "flux-system", "namespace of the agent")
	set.DurationVar(&s.timeout, "timeout", 5*time.Minute, "how long it may take")
}

// clusterConfig returns how to reach the cluster that a person means.
func clusterConfig(kubeconfig string, env map[string]string) (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	if path := env[clientcmd.RecommendedConfigPathEnvVar]; path != "" {
		rules.Precedence = strings.Split(path, ":")
	}
	rules.ExplicitPath = kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("finding the cluster: %w", err)
	}
	config.QPS = -1 // the server limits
	return config, nil
}

// connect returns a client that knows no Go types, and what applies with it.
func (s *site) connect(env map[string]string) (client.Client, *ssa.ResourceManager, error) {
	config, err := clusterConfig(s.kubeconfig, env)
	if err != nil {
		return nil, nil, err
	}
	c, err := client.New(config, client.Options{Scheme: runtime.NewScheme()})
	if err != nil {
		return nil, nil, fmt.Errorf("making the client: %w", err)
	}
	poller := polling.NewStatusPoller(c, c.RESTMapper(), polling.Options{})
	return c, ssa.NewResourceManager(c, poller, ssa.Owner{Field: installManager}), nil
}

func (s *site) waiting() ssa.WaitOptions {
	return ssa.WaitOptions{Interval: time.Second, Timeout: s.timeout}
}

// installOptions are the options of `cleat install`.
type installOptions struct {
	site
	overlays []string
	version  string
	export   bool
	wait     bool
}

func installCommand(env map[string]string) *cobra.Command {
	var o installOptions
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Install the agent in a cluster, or bring it to this version; with --export, print what that would apply.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), o.timeout)
			defer cancel()
			return o.run(ctx, env, cmd.OutOrStdout())
		},
	}
	o.register(cmd.Flags())
	cmd.Flags().StringSliceVar(&o.overlays, "overlay", nil, "what to add to the base; may be repeated: ha, lockdown, sharded, monitoring, receiver-ingress, from-flux")
	cmd.Flags().StringVar(&o.version, "version", imageTag(Version), "tag of the image")
	cmd.Flags().BoolVar(&o.export, "export", false, "print the objects and apply nothing")
	cmd.Flags().BoolVar(&o.wait, "wait", true, "wait until the agent is ready")
	return cmd
}

func (o *installOptions) run(ctx context.Context, env map[string]string, out io.Writer) error {
	objects, err := buildManifests(ctx, o.namespace, o.version, o.overlays)
	if err != nil {
		return err
	}
	if o.export {
		return export(out, objects)
	}
	_, applier, err := o.connect(env)
	if err != nil {
		return err
	}
	options := ssa.DefaultApplyOptions()
	options.WaitInterval, options.WaitTimeout = time.Second, o.timeout
	changes, err := applier.ApplyAllStaged(ctx, objects, options)
	if err != nil {
		return fmt.Errorf("applying: %w", err)
	}
	for _, change := range changes.Entries {
		fmt.Fprintf(out, "%s %s\n", change.Subject, change.Action)
	}
	if !o.wait {
		return nil
	}
	if err := applier.Wait(ofKind(objects, "Deployment"), o.waiting()); err != nil {
		return fmt.Errorf("waiting for the agent (`cleat check` says what is missing): %w", err)
	}
	fmt.Fprintf(out, "the agent %s is running in %s\n", o.version, o.namespace)
	return nil
}

func export(out io.Writer, objects []*unstructured.Unstructured) error {
	for _, object := range objects {
		text, err := yaml.Marshal(object.Object)
		if err != nil {
			return fmt.Errorf("writing %s/%s: %w", object.GetKind(), object.GetName(), err)
		}
		if _, err := fmt.Fprintf(out, "---\n%s", text); err != nil {
			return err
		}
	}
	return nil
}

func ofKind(objects []*unstructured.Unstructured, kind string) []*unstructured.Unstructured {
	var found []*unstructured.Unstructured
	for _, object := range objects {
		if object.GetKind() == kind {
			found = append(found, object)
		}
	}
	return found
}
