package client

import (
	"fmt"
	"io"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// maxLogPods and maxLogContainers bound whose logs are read when a hook asks for it.
	maxLogPods       = 10
	maxLogContainers = 10
	// maxLog bounds the log of one container, in bytes, and maxLogLines in lines from its end.
	maxLog      = 64 << 10
	maxLogLines = 1000
)

// GetPodList returns the Pods of a hook, not all if there are very many.
func (c *Client) GetPodList(namespace string, options metav1.ListOptions) (*corev1.PodList, error) {
	byLabel, err := labels.Parse(options.LabelSelector)
	if err != nil {
		return nil, fmt.Errorf("the label selector: %w", err)
	}
	byField, err := fields.ParseSelector(options.FieldSelector)
	if err != nil {
		return nil, fmt.Errorf("the field selector: %w", err)
	}
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
	ctx, cancel := c.request()
	defer cancel()
	err = c.user.Client.List(ctx, list, &client.ListOptions{Namespace: namespace, LabelSelector: byLabel, FieldSelector: byField, Limit: maxLogPods})
	if err != nil {
		return nil, fmt.Errorf("listing the pods of the hook: %w", err)
	}
	pods := &corev1.PodList{}
	for _, item := range list.Items {
		var pod corev1.Pod
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(item.Object, &pod); err != nil {
			return nil, fmt.Errorf("decoding Pod/%s/%s: %w", item.GetNamespace(), item.GetName(), err)
		}
		pods.Items = append(pods.Items, pod)
	}
	return pods, nil
}

// OutputContainerLogsForPodList writes the ends of the logs of the Pods' containers.
func (c *Client) OutputContainerLogsForPodList(pods *corev1.PodList, namespace string, to func(namespace, pod, container string) io.Writer) error {
	if to == nil {
		return nil // Nobody wants to read them.
	}
	core, err := c.restClient(corev1.SchemeGroupVersion)
	if err != nil {
		return err
	}
	for _, pod := range pods.Items {
		for i, container := range pod.Spec.Containers {
			if i == maxLogContainers {
				break
			}
			ctx, cancel := c.request()
			text, err := core.Get().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("log").
				Param("container", container.Name).Param("limitBytes", strconv.Itoa(maxLog)).Param("tailLines", strconv.Itoa(maxLogLines)).
				Do(ctx).Raw()
			cancel()
			if err != nil {
				return fmt.Errorf("reading the log of container %s of Pod/%s/%s: %w", container.Name, pod.Namespace, pod.Name, err)
			}
			if _, err := to(namespace, pod.Name, container.Name).Write(text); err != nil {
				return fmt.Errorf("writing the log of container %s of Pod/%s/%s: %w", container.Name, pod.Namespace, pod.Name, err)
			}
		}
	}
	return nil
}
