package agent

import (
	"bytes"
	"strings"
	"testing"

	"github.com/cleat-dev/cleat/internal/artifact"
)

func TestSourceCommands(t *testing.T) {
	dir := t.TempDir()
	s, err := artifact.Open(artifact.Options{Dir: dir, Address: "source-controller"})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.NewWriter()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := w.AddFile("app/a.yaml", false, strings.NewReader("kind: A")); err != nil {
		t.Fatal(err)
	}
	snapshot, err := w.Commit()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []artifact.Object{{Kind: "GitRepository", Namespace: "demo", Name: "shop"}, {Kind: "Bucket", Namespace: "demo", Name: "shop"}} {
		if _, err := s.Publish(o, "1.tar.gz", "main@sha1:1", snapshot); err != nil {
			t.Fatal(err)
		}
	}
	index := artifact.Object{Kind: "HelmRepository", Namespace: "demo", Name: "charts"}
	if _, err := s.PublishFile(index, "index-1.yaml", "r", strings.NewReader("entries: {}")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"list"}, 0, []string{"KIND", "gitrepository   demo       shop    1.tar.gz", snapshot.Digest, "index-1.yaml", "true"}},
		{[]string{"list", "-o", "json"}, 0, []string{`"kind": "gitrepository"`, `"digest": "` + snapshot.Digest}},
		{[]string{"tree", "GitRepository/demo/shop"}, 0, []string{"-rw-------  7     app/a.yaml"}},
		{[]string{"tree", "bucket/shop", "-o", "json"}, 0, []string{`"path": "app/a.yaml"`}},
		{[]string{"tree", "charts"}, 0, []string{"11    index-1.yaml"}},
		{[]string{"tree", "shop"}, 1, []string{`"shop" may mean bucket/demo/shop, gitrepository/demo/shop; name one of them`}},
		{[]string{"tree", "other"}, 1, []string{"no artifact"}},
		{[]string{"list", "-o", "yaml"}, 1, []string{"neither table nor json"}},
	} {
		var out bytes.Buffer
		code := Run(t.Context(), append([]string{"source", "--storage-path", dir}, c.args...), nil, &out, &out)
		if code != c.code {
			t.Errorf("%v: code %d: %s", c.args, code, &out)
		}
		for _, text := range c.want {
			if !strings.Contains(out.String(), text) {
				t.Errorf("%v: %q is not in:\n%s", c.args, text, &out)
			}
		}
	}
}

func TestSourceFlagsAreChecked(t *testing.T) {
	for _, args := range [][]string{
		{"--artifact-digest-algo=blake3"}, {"--artifact-max-size=0"}, {"--helm-index-max-size=-1"}, {"--helm-chart-max-size=0"},
	} {
		var out bytes.Buffer
		if code := Run(t.Context(), append([]string{"run"}, args...), nil, &out, &out); code != 1 || !strings.Contains(out.String(), strings.Split(args[0], "=")[0]) {
			t.Errorf("%v: code %d: %s", args, code, &out)
		}
	}
}
