package oci

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"

	"github.com/cleat-dev/cleat/internal/source"
)

// open returns a session with a repository of the server, and the registries that it belongs to.
func open(t *testing.T, s *server, repository string) (*session, *registries) {
	t.Helper()
	to := remote{insecure: true}
	var err error
	if to.repository, err = parseRepository(s.url(repository), true); err != nil {
		t.Fatal(err)
	}
	r := &registries{now: time.Now, open: map[string]*session{}}
	opened, err := r.session(to)
	if err != nil {
		t.Fatal(err)
	}
	return opened, r
}

const mib = 1 << 20

// modest gives attempts so little that a test does not take long to spend it.
func (w *world) modest() *world {
	w.t.Helper()
	w.budget = func() *source.Budget { return source.NewBudget(maxRequests, 4*mib) }
	w.restart(w.t.TempDir())
	return w
}

// TestA08_OneAttemptIsBounded: every page of tags is within its limit, and there is always one more.
func TestA08_OneAttemptIsBounded(t *testing.T) {
	s := serve(t)
	page := `{"tags": []` + strings.Repeat(" ", mib) + `}`
	var sent atomic.Int64
	s.hook(func(res http.ResponseWriter, req *http.Request) bool {
		if !strings.HasSuffix(req.URL.Path, "/tags/list") {
			return false
		}
		res.Header().Set("Link", `</v2/app/tags/list?last=x>; rel="next"`)
		n, _ := io.WriteString(res, page)
		sent.Add(int64(n))
		return true
	})
	w := newWorld(t, repository(s.url("app"), func(spec *sourcev1.OCIRepositorySpec) { spec.Reference = &sourcev1.OCIRepositoryRef{SemVer: "1.x"} })).modest()
	o, result := w.reconcile()
	if got := message(o, "Ready"); !strings.HasSuffix(got, source.ErrSpent.Error()) || result.RequeueAfter != time.Minute {
		t.Errorf("message is %q, comes back after %v", got, result.RequeueAfter)
	}
	if most := int64(4*mib + 2*len(page)); sent.Load() > most { // what the network holds is sent and not read
		t.Errorf("%d bytes were sent, more than %d", sent.Load(), most)
	}
}

// TestA08_SignaturesAreBoundedTogether: none of them is too large, nor are there more than are looked at.
func TestA08_SignaturesAreBoundedTogether(t *testing.T) {
	s := serve(t)
	artifact := files(t, map[string]string{"n": "1"})
	s.push(t, "app", "latest", artifact)
	for i := range maxSignatures {
		content := fmt.Appendf(make([]byte, mib/2), "%08d", i)
		attachReferrer(t, s, describe(t, artifact), bundleType, attached{content: content, mediaType: bundleType})
	}
	w := newWorld(t, secretOf("key", map[string]string{"cosign.pub": publicPEM(t, newKey(t))}),
		verifying(s, &sourcev1.OCIRepositoryVerification{Provider: "cosign", SecretRef: &meta.LocalObjectReference{Name: "key"}})).modest()
	o, _ := w.reconcile()
	if got := message(o, "Ready"); !strings.HasSuffix(got, source.ErrSpent.Error()) || o.Status.Artifact != nil {
		t.Errorf("message is %q", got)
	}
	if asked := len(s.take()); asked > 20 { // a manifest and a layer for each of eight, and what was there to look for
		t.Errorf("asked %d times", asked)
	}
}

// TestA08_WhatOneHasSpentIsNotHeldAgainstOthers: they get an answer, and at once.
func TestA08_WhatOneHasSpentIsNotHeldAgainstOthers(t *testing.T) {
	s := serve(t)
	for i := range 5 {
		s.push(t, "app", fmt.Sprintf("1.0.%d", i), files(t, map[string]string{"n": "1"}))
	}
	pages := 0
	s.hook(func(res http.ResponseWriter, req *http.Request) bool {
		if strings.HasSuffix(req.URL.Path, "/tags/list") {
			if pages++; pages%5 != 0 {
				res.Header().Set("Link", fmt.Sprintf(`</v2/app/tags/list?last=%d>; rel="next"`, pages))
			}
			fmt.Fprintf(res, `{"tags":["1.0.%d"]}`, pages%5)
			return true
		}
		return false
	})
	session, _ := open(t, s, "app")
	poor := source.WithBudget(t.Context(), source.NewBudget(4, mib))
	if _, err := session.listTags(poor, time.Time{}); !errors.Is(err, source.ErrSpent) || pages != 2 { // a ping by https, one by http
		t.Errorf("%d pages, %v", pages, err)
	}
	pages = 0
	if tags, err := session.listTags(source.WithBudget(t.Context(), NewBudget()), time.Time{}); err != nil || len(tags) != 5 {
		t.Errorf("tags are %v, %v", tags, err)
	}
}

// TestA04_WhatIsRememberedIsBoundedOverAll: many objects can name many registries.
func TestA04_WhatIsRememberedIsBoundedOverAll(t *testing.T) {
	s := serve(t)
	first, r := open(t, s, "app")
	sessions := []*session{first}
	for i := range 40 {
		to := first.remote
		to.auth.Username = fmt.Sprint(i)
		next, err := r.session(to)
		if err != nil {
			t.Fatal(err)
		}
		sessions = append(sessions, next)
	}
	content := make([]byte, maxManifest)
	for _, s := range sessions {
		if _, err := s.answers.do(t.Context(), "x", time.Time{}, time.Now(), func() ([]byte, error) { return content, nil }); err != nil {
			t.Fatal(err)
		}
	}
	kept := 0
	for _, s := range sessions {
		for _, c := range s.answers.calls {
			kept += len(c.value)
		}
	}
	if kept == 0 || kept > maxKept {
		t.Errorf("%d bytes are kept, at most %d may be", kept, maxKept)
	}
}

// TestReferrersAreReadPageByPage: the one signature that counts is on the second page, after what is of another type.
func TestReferrersAreReadPageByPage(t *testing.T) {
	key := newKey(t)
	for name, tt := range map[string]struct {
		pages    int
		accepted bool
	}{"the second page": {1, true}, "A08 pages without end": {1 << 20, false}} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			artifact := files(t, map[string]string{"n": "1"})
			digest := s.push(t, "app", "latest", artifact)
			attachReferrer(t, s, describe(t, artifact), bundleType, bundleByKey(t, key, digest.String(), signPredicate))
			asked := 0
			s.hook(func(res http.ResponseWriter, req *http.Request) bool {
				if !strings.Contains(req.URL.Path, "/referrers/") || asked == tt.pages {
					return false
				}
				asked++
				res.Header().Set("Content-Type", "application/vnd.oci.image.index.v1+json")
				res.Header().Set("Link", `<`+req.URL.Path+`?token=x>; rel="next"`)
				fmt.Fprintf(res, `{"schemaVersion":2,"manifests":[{"digest":"%s","size":1,"artifactType":"application/other"}]}`, digest)
				return true
			})
			w := newWorld(t, secretOf("key", map[string]string{"cosign.pub": publicPEM(t, key)}),
				verifying(s, &sourcev1.OCIRepositoryVerification{Provider: "cosign", SecretRef: &meta.LocalObjectReference{Name: "key"}}))
			verified(t, w, tt.accepted)
			if asked > maxPages {
				t.Errorf("asked for %d pages", asked)
			}
		})
	}
}
