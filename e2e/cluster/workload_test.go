package main_test

import (
	"bufio"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	fail    = "cleat.dev/fail"
	unready = "cleat.dev/unready"
	runFor  = "cleat.dev/run-for"
)

// TestWorkloads shows that what is created comes to the state that a real
// cluster would bring it to, or to the state that its annotations ask for.
func TestWorkloads(t *testing.T) {
	c := up(t, t.TempDir(), "--audit")
	t.Run("deployment", c.testDeployment)
	t.Run("unready deployment heals with its template", c.testTemplateHeals)
	t.Run("unready pod heals and sickens in place", c.testPodHeals)
	t.Run("job", c.testJob)
	t.Run("failing job", c.testFailingJob)
	t.Run("pods that end", c.testPodsEnd)
	t.Run("token and role", c.testToken)
	t.Run("version", c.testVersion)
	t.Run("audit log", c.testAudit)
	c.terminate(t)
}

func (c *cluster) testDeployment(t *testing.T) {
	c.createDeployment(t, deployment("plain", 3, nil))
	c.awaitDeployment(t, "plain", func(s appsv1.DeploymentStatus) bool { return s.AvailableReplicas == 3 })
}

func (c *cluster) testTemplateHeals(t *testing.T) {
	c.createDeployment(t, deployment("sick", 1, map[string]string{unready: "true"}))
	c.awaitPod(t, "app=sick", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning && !isReady(p) })
	patch := []byte(`{"spec":{"template":{"metadata":{"annotations":null}}}}`)
	_, err := c.client.AppsV1().Deployments("default").Patch(bounded(t), "sick", types.MergePatchType, patch, metav1.PatchOptions{})
	must(t, err)
	c.awaitDeployment(t, "sick", func(s appsv1.DeploymentStatus) bool {
		return s.ObservedGeneration == 2 && s.UpdatedReplicas == 1 && s.AvailableReplicas == 1
	})
}

func (c *cluster) testPodHeals(t *testing.T) {
	c.createDeployment(t, deployment("touchy", 1, map[string]string{unready: "true"}))
	var name string
	c.awaitPod(t, "app=touchy", func(p *corev1.Pod) bool {
		name = p.Name
		return p.Status.Phase == corev1.PodRunning && !isReady(p)
	})
	c.annotatePod(t, name, `null`)
	c.awaitDeployment(t, "touchy", func(s appsv1.DeploymentStatus) bool { return s.AvailableReplicas == 1 })
	c.annotatePod(t, name, `"true"`)
	c.awaitDeployment(t, "touchy", func(s appsv1.DeploymentStatus) bool { return s.AvailableReplicas == 0 })
}

func (c *cluster) testJob(t *testing.T) {
	c.createJob(t, "good", nil)
	c.awaitJob(t, "good", batchv1.JobComplete)
}

func (c *cluster) testFailingJob(t *testing.T) {
	c.createJob(t, "bad", map[string]string{fail: "true"})
	c.awaitJob(t, "bad", batchv1.JobFailed)
}

func (c *cluster) testPodsEnd(t *testing.T) {
	c.createPod(t, "hook", nil)
	c.createPod(t, "failing-hook", map[string]string{fail: "true"})
	c.createPod(t, "endless-hook", map[string]string{runFor: "1h"})
	c.awaitPod(t, "app=hook", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	c.awaitPod(t, "app=failing-hook", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodFailed && p.Status.ContainerStatuses[0].State.Terminated.ExitCode == 1
	})
	c.awaitPod(t, "app=endless-hook", isReady)
}

// testToken shows that a service account may do nothing, and with a role what
// that role says.
func (c *cluster) testToken(t *testing.T) {
	ctx := bounded(t)
	robot := c.asServiceAccount(t, "robot")
	_, err := robot.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
	if !apierrors.IsForbidden(err) {
		t.Fatalf("without a role: got %v, want forbidden", err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "robot"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "default", Name: "robot"}},
	}
	_, err = c.client.RbacV1().RoleBindings("default").Create(ctx, binding, metav1.CreateOptions{})
	must(t, err)
	// The authorizer follows role bindings by a watch of its own, which nobody
	// outside can watch in turn: only asking again shows that it has seen one.
	for {
		_, err := robot.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsForbidden(err) || ctx.Err() != nil {
			t.Fatalf("with a role: %v", err)
		}
	}
}

func (c *cluster) testVersion(t *testing.T) {
	v, err := c.client.Discovery().ServerVersion()
	must(t, err)
	if v.Major != "1" || v.Minor == "" || v.GitVersion[:len("v1.")] != "v1." {
		t.Fatalf("the version is not set: %+v", v)
	}
}

// testAudit shows that one can count who wrote what.
func (c *cluster) testAudit(t *testing.T) {
	_, err := c.client.CoreV1().ConfigMaps("default").Create(bounded(t),
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "audited"}}, metav1.CreateOptions{})
	must(t, err)
	count := 0
	for _, e := range c.auditLog(t) {
		if e.Stage != "ResponseComplete" || e.Level != "Metadata" {
			t.Errorf("unexpected entry: %+v", e)
		}
		if e.Verb == "create" && e.User.Username == "admin" && e.ObjectRef.Resource == "configmaps" && e.ObjectRef.Name == "audited" {
			count++
		}
	}
	if count != 1 {
		t.Fatalf("%d entries for one ConfigMap", count)
	}
}

type auditEvent struct {
	Stage, Level, Verb string
	User               struct{ Username string }
	ObjectRef          struct{ Resource, Name string }
}

func (c *cluster) auditLog(t *testing.T) []auditEvent {
	t.Helper()
	f, err := os.Open(filepath.Join(c.dir, "audit.log"))
	must(t, err)
	defer f.Close()
	var events []auditEvent
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditEvent
		must(t, json.Unmarshal(lines.Bytes(), &e))
		events = append(events, e)
	}
	must(t, lines.Err())
	return events
}

func (c *cluster) asServiceAccount(t *testing.T, name string) *kubernetes.Clientset {
	t.Helper()
	ctx, accounts := bounded(t), c.client.CoreV1().ServiceAccounts("default")
	_, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, err)
	token, err := accounts.CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	must(t, err)
	config := rest.AnonymousClientConfig(c.config)
	config.BearerToken = token.Status.Token
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	return client
}

func (c *cluster) createDeployment(t *testing.T, d *appsv1.Deployment) {
	t.Helper()
	_, err := c.client.AppsV1().Deployments("default").Create(bounded(t), d, metav1.CreateOptions{})
	must(t, err)
}

func (c *cluster) createJob(t *testing.T, name string, annotations map[string]string) {
	t.Helper()
	noRetry := int32(0)
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       batchv1.JobSpec{BackoffLimit: &noRetry, Template: template(name, corev1.RestartPolicyNever, annotations)},
	}
	_, err := c.client.BatchV1().Jobs("default").Create(bounded(t), job, metav1.CreateOptions{})
	must(t, err)
}

func (c *cluster) createPod(t *testing.T, name string, annotations map[string]string) {
	t.Helper()
	tmpl := template(name, corev1.RestartPolicyNever, annotations)
	tmpl.Name = name
	pod := &corev1.Pod{ObjectMeta: tmpl.ObjectMeta, Spec: tmpl.Spec}
	_, err := c.client.CoreV1().Pods("default").Create(bounded(t), pod, metav1.CreateOptions{})
	must(t, err)
}

func (c *cluster) annotatePod(t *testing.T, name, value string) {
	t.Helper()
	patch := []byte(`{"metadata":{"annotations":{"` + unready + `":` + value + `}}}`)
	_, err := c.client.CoreV1().Pods("default").Patch(bounded(t), name, types.MergePatchType, patch, metav1.PatchOptions{})
	must(t, err)
}

func (c *cluster) awaitDeployment(t *testing.T, name string, ok func(appsv1.DeploymentStatus) bool) {
	t.Helper()
	w, err := c.client.AppsV1().Deployments("default").Watch(bounded(t), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	await(t, w, err, func(d *appsv1.Deployment) bool { return ok(d.Status) })
}

func (c *cluster) awaitJob(t *testing.T, name string, condition batchv1.JobConditionType) {
	t.Helper()
	w, err := c.client.BatchV1().Jobs("default").Watch(bounded(t), metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	await(t, w, err, func(j *batchv1.Job) bool {
		for _, have := range j.Status.Conditions {
			if have.Type == condition && have.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	})
}

func (c *cluster) awaitPod(t *testing.T, selector string, ok func(*corev1.Pod) bool) {
	t.Helper()
	w, err := c.client.CoreV1().Pods("default").Watch(bounded(t), metav1.ListOptions{LabelSelector: selector})
	await(t, w, err, ok)
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func deployment(name string, replicas int32, annotations map[string]string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: template(name, corev1.RestartPolicyAlways, annotations),
		},
	}
}

func template(app string, restart corev1.RestartPolicy, annotations map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}, Annotations: annotations},
		Spec: corev1.PodSpec{
			RestartPolicy: restart,
			Containers:    []corev1.Container{{Name: "main", Image: "example.com/main:1"}},
		},
	}
}
