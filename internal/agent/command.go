package agent

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// Version is the release this binary was built as; the build sets it.
var Version = "v0.0.0-dev"

// Run runs the command line args with the environment env (KEY=VALUE) and returns the exit code: 0 when the command did
// what was asked, which for `run` is to stop when ctx ends; 1 otherwise, after saying why on stderr.
func Run(ctx context.Context, args, env []string, stdout, stderr io.Writer) int {
	root := &cobra.Command{
		Use:           "cleat",
		Short:         "Cleat keeps a Kubernetes cluster as Git says it should be.",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(runCommand(environment(env), stderr), sourceCommand(), driftCommand(environment(env)), versionCommand())
	root.AddCommand(installCommand(environment(env)), uninstallCommand(environment(env)), checkCommand(environment(env)))
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(stderr, "cleat:", err)
		return 1
	}
	return 0
}

func runCommand(env map[string]string, stderr io.Writer) *cobra.Command {
	var flags Flags
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent until it is told to stop.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.complete(env); err != nil {
				return err
			}
			return run(cmd.Context(), flags, newLogger(stderr, flags.LogLevel, flags.LogEncoding))
		},
	}
	flags.register(cmd.Flags())
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this binary and of the Flux APIs it serves.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fmt.Fprintf(cmd.OutOrStdout(), "cleat: %s\n", Version)
			info, ok := debug.ReadBuildInfo()
			if !ok {
				return nil
			}
			for _, module := range info.Deps {
				if path, ok := strings.CutPrefix(module.Path, "github.com/fluxcd/"); ok && strings.HasSuffix(path, "-controller/api") {
					fmt.Fprintf(cmd.OutOrStdout(), "%s: %s\n", path, module.Version)
				}
			}
			return nil
		},
	}
}

// environment turns KEY=VALUE pairs into a map.
func environment(pairs []string) map[string]string {
	env := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		key, value, _ := strings.Cut(pair, "=")
		env[key] = value
	}
	return env
}
