package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/drift"
)

// inspectTimeout bounds what a command asks of the API server.
const inspectTimeout = time.Minute

// driftOptions are the options of `cleat drift`.
type driftOptions struct{ kubeconfig, namespace, output string }

// driftCommand shows the record of drift. It reads what the agent has kept on the cluster, with the rights of whoever asks, and
// needs no agent to run.
func driftCommand(env map[string]string) *cobra.Command {
	var o driftOptions
	cmd := &cobra.Command{
		Use:   "drift [KIND/NAME]",
		Short: "Show which objects were not as they were left, who did it, and what became of it.",
		Long: "Show which objects were not as they were left, who did it, and what became of it.\n\n" +
			"KIND/NAME is an object, or who has applied it: Deployment/web, Kustomization/shop.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), inspectTimeout)
			defer cancel()
			found, err := o.read(ctx, env, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if found, err = chosen(found, args[0]); err != nil {
					return err
				}
			}
			return o.print(cmd.OutOrStdout(), found, time.Now())
		},
	}
	cmd.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "path to a kubeconfig file; otherwise where kubectl looks")
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "", "namespace of those who have applied the objects; all when empty")
	cmd.Flags().StringVarP(&o.output, "output", "o", "table", "table, json or diff")
	return cmd
}

// drifted is a record, and whose it is.
type drifted struct {
	Owner string `json:"owner"` // Kind/namespace/name
	drift.Record
}

// read reads all records. One that cannot be believed is told of and left out: whoever may write ConfigMaps in one namespace must
// not be able to hide what is in the others.
func (o driftOptions) read(ctx context.Context, env map[string]string, warnings io.Writer) ([]drifted, error) {
	config, err := clusterConfig(o.kubeconfig, env)
	if err != nil {
		return nil, err
	}
	reader, err := client.New(config, client.Options{Scheme: api.NewScheme()})
	if err != nil {
		return nil, fmt.Errorf("making the client: %w", err)
	}
	kept := &corev1.ConfigMapList{}
	if err := reader.List(ctx, kept, client.InNamespace(o.namespace), drift.RecordsOf()); err != nil {
		return nil, fmt.Errorf("listing the records: %w", err)
	}
	found := []drifted{}
	for i := range kept.Items {
		owner, records, err := drift.ReadRecords(&kept.Items[i])
		if err != nil {
			fmt.Fprintf(warnings, "ConfigMap/%s/%s is left out: %v\n", kept.Items[i].Namespace, kept.Items[i].Name, err)
			continue
		}
		drift.SortRecords(records)
		for _, r := range records {
			found = append(found, drifted{Owner: owner, Record: r})
		}
	}
	return found, nil
}

// chosen returns the records that KIND/NAME or KIND/NAMESPACE/NAME means: of that object, or of that owner.
func chosen(found []drifted, name string) ([]drifted, error) {
	kind, rest, ok := strings.Cut(name, "/")
	if !ok {
		return nil, fmt.Errorf("%q is not KIND/NAME", name)
	}
	if strings.EqualFold(kind, "ks") {
		kind = api.KustomizationKind.Kind
	}
	if strings.EqualFold(kind, "hr") {
		kind = api.HelmReleaseKind.Kind
	}
	means := func(full string) bool {
		k, n, _ := strings.Cut(full, "/")
		return strings.EqualFold(k, kind) && (n == rest || strings.HasSuffix(n, "/"+rest))
	}
	out := []drifted{}
	for _, d := range found {
		if means(d.Owner) || means(d.Object()) {
			out = append(out, d)
		}
	}
	return out, nil
}

func (o driftOptions) print(out io.Writer, found []drifted, now time.Time) error {
	switch o.output {
	case "json":
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		return encoder.Encode(found)
	case "table":
		return printTable(out, found, now)
	case "diff":
		for _, d := range found {
			printDiff(out, d)
		}
		return nil
	default:
		return fmt.Errorf("--output: %q is neither table, json nor diff", o.output)
	}
}

func printTable(out io.Writer, found []drifted, now time.Time) error {
	if len(found) == 0 {
		fmt.Fprintln(out, "no drift is on record")
		return nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "OWNER\tOBJECT\tSTATE\tBY\tSEEN\tTOOK\tTIMES\tWHAT")
	for _, d := range found {
		took := "-"
		if d.Ended != nil {
			took = d.Ended.Sub(d.Seen).Round(time.Millisecond).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s ago\t%s\t%d\t%s\n", printable(d.Owner), printable(d.Object()), printable(string(d.State)), printable(by(d.Record)),
			now.Sub(d.Seen).Round(time.Second), took, d.Times, printable(fieldsOf(d.Record)))
	}
	return w.Flush()
}

// by names who has changed an object.
func by(r drift.Record) string {
	authors := r.Authors()
	if len(authors) == 0 {
		return "unknown"
	}
	names := make([]string, 0, len(authors))
	for _, a := range authors {
		names = append(names, a.String())
	}
	return strings.Join(names, ",")
}

// fieldsOf names the fields that were changed.
func fieldsOf(r drift.Record) string {
	if r.Reason == drift.Missing {
		return "deleted"
	}
	paths := make([]string, 0, len(r.Differences))
	for _, d := range r.Differences {
		paths = append(paths, d.Path)
	}
	if r.Omitted > 0 {
		paths = append(paths, fmt.Sprintf("%d more", r.Omitted))
	}
	if len(paths) == 0 {
		return "not known"
	}
	return strings.Join(paths, ", ")
}

// printDiff shows a record as a diff from what is declared to what was found.
func printDiff(out io.Writer, d drifted) {
	fmt.Fprintf(out, "--- %s, as %s has declared it\n", printable(d.Object()), printable(d.Owner))
	fmt.Fprintf(out, "+++ %s, as it was found at %s; %s\n", printable(d.Object()), d.Seen.UTC().Format(time.RFC3339), strings.ToLower(string(d.State)))
	if d.Error != "" {
		fmt.Fprintf(out, "# cannot be put right: %s\n", printable(d.Error))
	}
	if d.Reason == drift.Missing {
		fmt.Fprintln(out, "- the object: it was deleted, and nobody keeps record of who did")
	}
	for _, difference := range d.Differences {
		fmt.Fprintf(out, "@@ %s @@ %s\n", printable(difference.Path), authorship(difference))
		if difference.Declared != "" {
			fmt.Fprintf(out, "-%s\n", printable(difference.Declared))
		}
		if difference.Live != "" {
			fmt.Fprintf(out, "+%s\n", printable(difference.Live))
		}
	}
	if d.Omitted > 0 {
		fmt.Fprintf(out, "@@ %d more fields @@\n", d.Omitted)
	}
	if hidden(d.Record) {
		fmt.Fprintln(out, "# *** is a secret; the same digits in one record are the same value")
	}
	fmt.Fprintln(out)
}

// authorship says who has written a field, and when.
func authorship(d drift.Difference) string {
	if len(d.By) == 0 {
		return "by somebody whom managedFields do not name"
	}
	a := d.By[0]
	text := "by " + printable(a.String())
	if a.Time != "" {
		text += " at " + printable(a.Time)
	}
	return text
}

// printable keeps what somebody else wrote from steering the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text)
}

func hidden(r drift.Record) bool {
	for _, d := range r.Differences {
		if strings.Contains(d.Declared+d.Live, "*** (") {
			return true
		}
	}
	return false
}
