package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cleat-dev/cleat/internal/artifact"
)

// inspect are the options of `cleat source`.
type inspect struct{ storage, output string }

// sourceCommand shows what the storage holds. It only reads, and may run beside the agent, in its Pod.
func sourceCommand() *cobra.Command {
	var o inspect
	cmd := &cobra.Command{Use: "source", Short: "Show what the storage of the agent holds."}
	cmd.PersistentFlags().StringVar(&o.storage, "storage-path", "/data", "directory where artifacts are kept")
	cmd.PersistentFlags().StringVarP(&o.output, "output", "o", "table", "table or json")
	cmd.AddCommand(&cobra.Command{
		Use: "list", Short: "List the artifacts of all sources.", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.list(cmd.OutOrStdout()) },
	}, &cobra.Command{
		Use: "tree [KIND/[NAMESPACE/]]NAME", Short: "List the files in the newest artifact of a source.", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.tree(cmd.OutOrStdout(), args[0]) },
	})
	return cmd
}

func (o inspect) list(out io.Writer) error {
	found, err := artifact.List(o.storage)
	if err != nil {
		return fmt.Errorf("reading the storage: %w", err)
	}
	return o.print(out, found, func(w io.Writer) {
		fmt.Fprintln(w, "KIND\tNAMESPACE\tNAME\tFILE\tSIZE\tDIGEST\tPUBLISHED\tCURRENT")
		for _, a := range found {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%t\n", a.Kind, a.Namespace, a.Name, a.File, a.Size, a.Digest, a.Published.Format(time.RFC3339), a.Current)
		}
	})
}

func (o inspect) tree(out io.Writer, name string) error {
	found, err := artifact.List(o.storage)
	if err != nil {
		return fmt.Errorf("reading the storage: %w", err)
	}
	a, err := choose(found, name)
	if err != nil {
		return err
	}
	entries, err := artifact.Tree(o.storage, a)
	if err != nil {
		return fmt.Errorf("reading %s: %w", a.File, err)
	}
	return o.print(out, entries, func(w io.Writer) {
		fmt.Fprintln(w, "MODE\tSIZE\tPATH")
		for _, e := range entries {
			fmt.Fprintf(w, "%s\t%d\t%s\n", e.Mode, e.Size, shown(e.Path))
		}
	})
}

// shown keeps what somebody else named from steering the terminal.
func shown(name string) string {
	if quoted := fmt.Sprintf("%q", name); quoted != `"`+name+`"` {
		return quoted
	}
	return name
}

// choose returns the newest artifact of the source that NAME, KIND/NAME or KIND/NAMESPACE/NAME means.
func choose(found []artifact.Listed, name string) (artifact.Listed, error) {
	want := strings.Split(name, "/")
	want[0] = strings.ToLower(want[0])
	var chosen []artifact.Listed
	var names []string
	for _, a := range found {
		full := map[int][]string{1: {a.Name}, 2: {a.Kind, a.Name}, 3: {a.Kind, a.Namespace, a.Name}}[len(want)]
		if a.Current && strings.Join(full, "/") == strings.Join(want, "/") {
			chosen = append(chosen, a)
			names = append(names, a.Kind+"/"+a.Namespace+"/"+a.Name)
		}
	}
	switch len(chosen) {
	case 0:
		return artifact.Listed{}, fmt.Errorf("the storage has no artifact of %q; `cleat source list` shows what it has", name)
	case 1:
		return chosen[0], nil
	default:
		return artifact.Listed{}, fmt.Errorf("%q may mean %s; name one of them", name, strings.Join(names, ", "))
	}
}

func (o inspect) print(out io.Writer, value any, table func(io.Writer)) error {
	switch o.output {
	case "json":
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(value)
	case "table":
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		table(w)
		return w.Flush()
	default:
		return fmt.Errorf("--output: %q is neither table nor json", o.output)
	}
}
