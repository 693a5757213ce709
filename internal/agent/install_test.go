package agent

import (
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestBuildManifests: everything that has a namespace is in the one that is asked for, and so is everybody whom a binding names, with
// all overlays at once.
func TestBuildManifests(t *testing.T) {
	overlays, err := knownOverlays()
	if err != nil {
		t.Fatal(err)
	}
	objects, err := buildManifests(t.Context(), "elsewhere", "v1.2.3", overlays)
	if err != nil {
		t.Fatal(err)
	}
	agents := 0
	for _, object := range objects {
		if ns := object.GetNamespace(); ns != "" && ns != "elsewhere" {
			t.Errorf("%s/%s is in the namespace %s", object.GetKind(), object.GetName(), ns)
		}
		if object.GetKind() == "Namespace" && object.GetName() != "elsewhere" {
			t.Errorf("the namespace is %s", object.GetName())
		}
		text, err := object.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(text), `"namespace":"flux-system"`) {
			t.Errorf("%s/%s names the namespace flux-system", object.GetKind(), object.GetName())
		}
		agents += strings.Count(string(text), `"image":"ghcr.io/cleat-dev/cleat:v1.2.3"`)
	}
	if agents != 2 {
		t.Errorf("%d agents are of the version that was asked for, and not the first one and that of a shard", agents)
	}
}

// TestAgentArgs: the flags of every Deployment are flags of this binary.
func TestAgentArgs(t *testing.T) {
	overlays, err := knownOverlays()
	if err != nil {
		t.Fatal(err)
	}
	objects, err := buildManifests(t.Context(), "elsewhere", "v1", overlays)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range ofKind(objects, "Deployment") {
		if object.GetLabels()[nameLabel] != agentName {
			continue // one of Flux's, scaled to nothing
		}
		containers := object.Object["spec"].(map[string]any)["template"].(map[string]any)["spec"].(map[string]any)["containers"].([]any)
		var args []string
		for _, arg := range containers[0].(map[string]any)["args"].([]any) {
			args = append(args, arg.(string))
		}
		if len(args) == 0 || args[0] != "run" {
			t.Fatalf("%s runs %q", object.GetName(), args)
		}
		cmd := runCommand(nil, nil)
		if err := cmd.ParseFlags(args[1:]); err != nil {
			t.Errorf("%s: %v", object.GetName(), err)
		}
	}
}

func TestHeld(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	renewed := func(ago time.Duration) coordinationv1.LeaseSpec {
		return coordinationv1.LeaseSpec{
			HolderIdentity: ptr.To("a"), LeaseDurationSeconds: ptr.To[int32](35), RenewTime: ptr.To(metav1.NewMicroTime(now.Add(-ago))),
		}
	}
	givenUp := renewed(0)
	givenUp.HolderIdentity = ptr.To("")
	for name, test := range map[string]struct {
		lease coordinationv1.LeaseSpec
		want  bool
	}{
		"renewed":     {renewed(34 * time.Second), true},
		"run out":     {renewed(36 * time.Second), false},
		"given up":    {givenUp, false},
		"never taken": {coordinationv1.LeaseSpec{}, false},
	} {
		if got := held(test.lease, now); got != test.want {
			t.Errorf("%s: held is %t", name, got)
		}
	}
}

func TestUnled(t *testing.T) {
	service := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "http"}, {Name: "more"}}}}
	slice := func(ready bool, ports ...string) discoveryv1.EndpointSlice {
		s := discoveryv1.EndpointSlice{Endpoints: []discoveryv1.Endpoint{{Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}}
		for _, port := range ports {
			s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: ptr.To(port), Port: ptr.To[int32](9090)})
		}
		return s
	}
	for name, test := range map[string]struct {
		slices []discoveryv1.EndpointSlice
		want   string
	}{
		"none":       {nil, "http"},
		"all":        {[]discoveryv1.EndpointSlice{slice(true, "http", "more")}, ""},
		"of several": {[]discoveryv1.EndpointSlice{slice(true, "http"), slice(true, "more")}, ""},
		"one":        {[]discoveryv1.EndpointSlice{slice(true, "http")}, "more"},
		"not ready":  {[]discoveryv1.EndpointSlice{slice(false, "http", "more")}, "http"},
	} {
		if got := unled(service, test.slices); got != test.want {
			t.Errorf("%s: the port that leads nowhere is %q, not %q", name, got, test.want)
		}
	}
}
