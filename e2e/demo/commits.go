package main

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing/fstest"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/cleat-dev/cleat/e2e/live"
)

var (
	source        = live.Ref{Kind: "gitrepo", Namespace: "demo", Name: "shop"}
	kustomization = live.Ref{Kind: "ks", Namespace: "demo", Name: "shop"}
)

// milestone is one thing that a commit brings about on the cluster.
type milestone struct {
	what  string
	ref   live.Ref
	holds func(*unstructured.Unstructured) bool
}

// firstCommit pushes the shop and tells Cleat about it for the first time.
func (s *stage) firstCommit(ctx context.Context) error {
	commit, err := s.commit("shop: open", "first")
	if err != nil {
		return err
	}
	s.out.heading("A first commit, and two objects that tell Cleat about it", commit, "shop: open")
	manifests, err := os.ReadFile(s.testdata("objects.yaml"))
	if err != nil {
		return err
	}
	manifests = bytes.ReplaceAll(manifests, []byte("$GIT/shop.git"), []byte(s.repo.URL))
	return s.watch(ctx, func() error {
		_, err := s.cluster.Apply(ctx, manifests, "")
		return err
	}, []milestone{
		{"fetched: the GitRepository has an artifact of the commit", source, live.ReadyAt(commit)},
		{"applied: the Deployment is on the cluster, patched to 2 replicas", shop("deploy", "web"), is("spec.replicas", int64(2))},
		{"running: both pods of the Deployment are available", shop("deploy", "web"), is("status.availableReplicas", int64(2))},
		{"running: the StatefulSet is ready", shop("sts", "cache"), is("status.readyReplicas", int64(1))},
		{"running: the Job has completed", shop("jobs", "migrate"), live.Condition("Complete", "True", "")},
		{"ready: the Kustomization has applied the commit, and all of it is healthy", kustomization, live.ReadyAt(commit)},
	})
}

// secondCommit changes two things, renames the generated ConfigMap by that, and drops the CronJob.
func (s *stage) secondCommit(ctx context.Context) error {
	commit, err := s.commit("shop: summer sale", "first", "second")
	if err != nil {
		return err
	}
	s.out.heading("A second commit: a new image, 4 replicas, another banner, no CronJob", commit, "shop: summer sale")
	return s.watch(ctx, func() error {
		return s.cluster.Poke(ctx, source, time.Now().Format(time.RFC3339Nano))
	}, []milestone{
		{"fetched: the GitRepository has an artifact of the commit", source, live.ReadyAt(commit)},
		{"applied: the Deployment wants 4 replicas", shop("deploy", "web"), is("spec.replicas", int64(4))},
		{"pruned: the CronJob is gone", shop("cronjobs", "report"), func(obj *unstructured.Unstructured) bool { return obj == nil }},
		{"running: all 4 pods are available, of the new image", shop("deploy", "web"), rolledOut(4)},
		{"ready: the Kustomization has applied the commit, and all of it is healthy", kustomization, live.ReadyAt(commit)},
	})
}

// commit makes the files of these folders, later ones over earlier ones, the content of the repository, and pushes it.
func (s *stage) commit(message string, folders ...string) (string, error) {
	files := fstest.MapFS{}
	for _, folder := range folders {
		dir := os.DirFS(s.testdata(folder))
		err := fs.WalkDir(dir, ".", func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			data, err := fs.ReadFile(dir, path)
			files[path] = &fstest.MapFile{Data: data, Mode: 0o644}
			return err
		})
		if err != nil {
			return "", err
		}
	}
	commit, err := s.repo.Commit(files, message)
	if err != nil {
		return "", err
	}
	return commit, s.repo.Push(false)
}

// watch triggers work and prints each milestone when a watch sees it, with the time since the trigger.
func (s *stage) watch(ctx context.Context, trigger func() error, milestones []milestone) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	type sight struct {
		milestone
		after time.Duration
		err   error
	}
	sights := make(chan sight, len(milestones)) // Each watch can end though nobody listens any more.
	begin := time.Now()
	if err := trigger(); err != nil {
		return err
	}
	for _, m := range milestones {
		go func() {
			_, err := s.cluster.Until(ctx, m.ref, m.holds)
			sights <- sight{m, time.Since(begin), err}
		}()
	}
	for range milestones {
		seen := <-sights
		if seen.err != nil {
			return fmt.Errorf("%q was not seen: %w (the agent's log is %s)", seen.what, seen.err, s.file("cleat.log"))
		}
		s.out.milestone(seen.after, seen.what)
	}
	return nil
}

func (s *stage) testdata(name string) string {
	return filepath.Join(s.root, "e2e", "testdata", "demo", name)
}

// shop names an object of the demo's application.
func shop(kind, name string) live.Ref { return live.Ref{Kind: kind, Namespace: "shop", Name: name} }

// is holds for an object whose field has a value.
func is(path string, want any) func(*unstructured.Unstructured) bool {
	fields := strings.Split(path, ".")
	return func(obj *unstructured.Unstructured) bool {
		if obj == nil {
			return false
		}
		got, _, _ := unstructured.NestedFieldNoCopy(obj.Object, fields...)
		return got == want
	}
}

// rolledOut holds for a Deployment of which all replicas are of its present template and available.
func rolledOut(replicas int64) func(*unstructured.Unstructured) bool {
	return live.All(is("spec.replicas", replicas), is("status.updatedReplicas", replicas), is("status.availableReplicas", replicas),
		is("status.replicas", replicas), func(obj *unstructured.Unstructured) bool {
			return is("status.observedGeneration", obj.GetGeneration())(obj)
		})
}
