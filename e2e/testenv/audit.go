package testenv

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Request is one request of an agent.
type Request struct {
	Verb      string
	DryRun    bool
	Resource  string // "deployments.apps", "kustomizations.kustomize.toolkit.fluxcd.io/status"
	Namespace string
	Name      string
	Code      int // of the answer
}

func (r Request) String() string {
	verb := r.Verb
	if r.DryRun {
		verb = "try " + verb
	}
	return fmt.Sprintf("%s %s %s/%s %d", verb, r.Resource, r.Namespace, r.Name, r.Code)
}

// Writes says that the request changed something, or tried to. A dry run changes nothing.
func (r Request) Writes() bool {
	switch r.Verb {
	case "create", "update", "patch", "delete", "deletecollection":
		return !r.DryRun
	default:
		return false
	}
}

// AuditMark is a place in the audit log.
type AuditMark int64

// Audit is the API server's own record of who asked what: the judge of "the agent wrote nothing".
type Audit struct{ path string }

// ErrNoAudit means that this cluster's audit log is out of reach, because it is not the embedded one.
var ErrNoAudit = errors.New("only the embedded control plane has an audit log to read")

// AuditLog returns the audit log of the embedded control plane, or ErrNoAudit.
func (c *Cluster) AuditLog() (Audit, error) {
	if c.audit == "" {
		return Audit{}, ErrNoAudit
	}
	return Audit{path: c.audit}, nil
}

// Mark returns the present end of the log.
func (a Audit) Mark() (AuditMark, error) {
	info, err := os.Stat(a.path)
	if err != nil {
		return 0, err
	}
	return AuditMark(info.Size()), nil
}

// AgentRequests returns what agents asked since mark about a namespace and the objects in it, in the order of the answers.
// Watches are left out, and so are Events and Leases, which are written beside the work.
//
// The server logs a request when it has answered it, which is a moment after a watch has told of its effect.
func (a Audit) AgentRequests(since AuditMark, namespace string) ([]Request, error) {
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(int64(since), io.SeekStart); err != nil {
		return nil, err
	}
	var requests []Request
	for lines := bufio.NewReader(f); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return requests, nil
		}
		if err != nil {
			return nil, err
		}
		r, ok, err := parseRequest(bytes.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		if ok && (r.Namespace == namespace || r.Name == namespace) {
			requests = append(requests, r)
		}
	}
}

// agentPrefix begins the agent's user agent.
const agentPrefix = "cleat/"

func parseRequest(line []byte) (r Request, ok bool, err error) {
	var event struct {
		Verb           string
		RequestURI     string
		UserAgent      string
		ObjectRef      struct{ APIGroup, Resource, Subresource, Namespace, Name string }
		ResponseStatus struct{ Code int }
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return Request{}, false, fmt.Errorf("reading the audit log: %w", err)
	}
	if event.Verb == "watch" || !strings.HasPrefix(event.UserAgent, agentPrefix) {
		return Request{}, false, nil
	}
	ref := event.ObjectRef
	switch ref.Resource {
	case "events", "leases", "subjectaccessreviews", "selfsubjectaccessreviews":
		return Request{}, false, nil
	}
	resource := ref.Resource
	if ref.APIGroup != "" {
		resource += "." + ref.APIGroup
	}
	if ref.Subresource != "" {
		resource += "/" + ref.Subresource
	}
	return Request{
		Verb: event.Verb, DryRun: strings.Contains(event.RequestURI, "dryRun="), Resource: resource, Namespace: ref.Namespace, Name: ref.Name,
		Code: event.ResponseStatus.Code,
	}, true, nil
}
