package testenv

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
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

// Access is one request as authorization sees it.
type Access struct {
	Verb, Group, Resource, Namespace, Name string
	// Path is set, and Resource is not, when the request was not about a resource.
	Path string
	// As is who was impersonated.
	As string
	// Created says that it was answered by a new object.
	Created bool
	// Forbidden says that authorization refused it.
	Forbidden bool
}

func (a Access) String() string {
	text := strings.TrimSpace(fmt.Sprintf("%s %s%s %s/%s", a.Verb, a.Path, strings.TrimSuffix(a.Resource+"."+a.Group, "."), a.Namespace, a.Name))
	if a.As != "" {
		text += " as " + a.As
	}
	return text
}

// Accesses returns everything that a user has asked for, in the order of the answers; a watch is answered when it ends.
func (a Audit) Accesses(user string) ([]Access, error) {
	content, err := os.ReadFile(a.path)
	if err != nil {
		return nil, err
	}
	var all []Access
	for line := range bytes.Lines(content) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // it is being written
		}
		var event struct {
			Verb, RequestURI       string
			User, ImpersonatedUser struct{ Username string }
			ObjectRef              struct{ APIGroup, Resource, Subresource, Namespace, Name string }
			Annotations            map[string]string
			ResponseStatus         struct{ Code int }
		}
		if err := json.Unmarshal(line, &event); err != nil {
			return nil, fmt.Errorf("reading the audit log: %w", err)
		}
		if event.User.Username != user {
			continue
		}
		ref := event.ObjectRef
		access := Access{
			Verb: event.Verb, Group: ref.APIGroup, Resource: ref.Resource, Namespace: ref.Namespace, Name: ref.Name,
			As: event.ImpersonatedUser.Username, Created: event.ResponseStatus.Code == http.StatusCreated,
			// Who may not impersonate is refused before there is a decision about the request.
			Forbidden: event.Annotations["authorization.k8s.io/decision"] == "forbid" ||
				event.ResponseStatus.Code == http.StatusForbidden && event.Annotations["authorization.k8s.io/decision"] == "",
		}
		if ref.Subresource != "" {
			access.Resource += "/" + ref.Subresource
		}
		if ref.Resource == "" {
			access.Path = event.RequestURI
		}
		all = append(all, access)
	}
	return all, nil
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
