package artifact

import (
	"io/fs"
	"net/http"
	"path"
	"strings"
)

// Handler serves the published files to GET and HEAD under /<kind>/<namespace>/<name>/<file> and nothing else: no listing,
// no name that starts with a dot, no path that is not clean. The file names hold a revision or digest, which a client has
// to know (faults.md A42).
//
// The agent itself is not served: readers inside it have the files without it, so a fetch of its own can only be one that
// somebody wants to be made with the agent's way through network policies, for what another namespace has (faults.md A18).
func (s *Store) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		if strings.Contains(r.UserAgent(), agentName) {
			http.Error(w, "the agent does not fetch from itself", http.StatusForbidden)
			return
		}
		name := strings.TrimPrefix(r.URL.Path, "/")
		if !servable(name) {
			http.NotFound(w, r)
			return
		}
		f, err := s.root.Open(name)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil || !info.Mode().IsRegular() {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", contentType(name))
		w.Header().Set("X-Content-Type-Options", "nosniff")
		http.ServeContent(w, r, "", info.ModTime(), f)
	})
}

// agentName is in the User-Agent of all that the agent fetches.
const agentName = "cleat"

func servable(name string) bool {
	if !fs.ValidPath(name) || strings.Count(name, "/") != 3 {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".") {
			return false
		}
	}
	return true
}

func contentType(name string) string {
	switch path.Ext(name) {
	case ".gz", ".tgz":
		return "application/gzip"
	case ".yaml", ".yml":
		return "application/yaml"
	default:
		return "application/octet-stream"
	}
}
