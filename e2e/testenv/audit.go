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

// Write is one request that changed something on the API server, or tried to.
type Write struct {
	Verb      string
	Resource  string // "deployments.apps", "kustomizations.kustomize.toolkit.fluxcd.io/status"
	Namespace string
	Name      string
	Code      int // of the answer
}

func (w Write) String() string {
	return fmt.Sprintf("%s %s %s/%s %d", w.Verb, w.Resource, w.Namespace, w.Name, w.Code)
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

// AgentWrites returns what agents wrote since mark about a namespace and the objects in it, in the order of the answers.
// Dry runs change nothing and are left out, and so are Events and Leases, which are written beside the work.
//
// The server logs a request when it has answered it, which is a moment after a watch has told of its effect.
func (a Audit) AgentWrites(since AuditMark, namespace string) ([]Write, error) {
	f, err := os.Open(a.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(int64(since), io.SeekStart); err != nil {
		return nil, err
	}
	var writes []Write
	for lines := bufio.NewReader(f); ; {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return writes, nil
		}
		if err != nil {
			return nil, err
		}
		w, ok, err := parseWrite(bytes.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		if ok && (w.Namespace == namespace || w.Name == namespace) {
			writes = append(writes, w)
		}
	}
}

// agentPrefix begins the agent's user agent.
const agentPrefix = "cleat/"

func parseWrite(line []byte) (w Write, ok bool, err error) {
	var event struct {
		Verb           string
		RequestURI     string
		UserAgent      string
		ObjectRef      struct{ APIGroup, Resource, Subresource, Namespace, Name string }
		ResponseStatus struct{ Code int }
	}
	if err := json.Unmarshal(line, &event); err != nil {
		return Write{}, false, fmt.Errorf("reading the audit log: %w", err)
	}
	switch event.Verb {
	case "create", "update", "patch", "delete", "deletecollection":
	default:
		return Write{}, false, nil
	}
	if !strings.HasPrefix(event.UserAgent, agentPrefix) || strings.Contains(event.RequestURI, "dryRun=") {
		return Write{}, false, nil
	}
	ref := event.ObjectRef
	switch ref.Resource {
	case "events", "leases", "subjectaccessreviews", "selfsubjectaccessreviews":
		return Write{}, false, nil
	}
	resource := ref.Resource
	if ref.APIGroup != "" {
		resource += "." + ref.APIGroup
	}
	if ref.Subresource != "" {
		resource += "/" + ref.Subresource
	}
	return Write{
		Verb: event.Verb, Resource: resource, Namespace: ref.Namespace, Name: ref.Name,
		Code: event.ResponseStatus.Code,
	}, true, nil
}
