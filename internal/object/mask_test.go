package object

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func TestF45_MaskText(t *testing.T) {
	key := "-----BEGIN KEY-----\nMIIEvQIBADANBg\n-----END KEY-----\n"
	secret := func(field string, v any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s"}, field: map[string]any{"password": v},
		}}
	}
	for name, tt := range map[string]struct {
		u          *unstructured.Unstructured
		text, want string
	}{
		"number":      {secret("data", int64(12345)), "expected string, got &value.valueUnstructured{Value:12345}", "expected string, got &value.valueUnstructured{Value:***}"},
		"base64":      {secret("data", "aHVudGVyMg=="), `Invalid value: "aHVudGVyMg=="`, `Invalid value: "***"`},
		"decoded":     {secret("data", "aHVudGVyMg=="), "denied: hunter2 is weak", "denied: *** is weak"},
		"encoded":     {secret("stringData", "hunter2"), "data is aHVudGVyMg==", "data is ***"},
		"not base64":  {secret("data", "hunter2!"), "illegal base64 data in hunter2!", "illegal base64 data in ***"},
		"quoted":      {secret("stringData", key), fmt.Sprintf("got %q", key), `got "***"`},
		"one line":    {secret("stringData", key), "line MIIEvQIBADANBg is bad", "line *** is bad"},
		"JSON":        {secret("stringData", "<a&b>"), `got "\u003ca\u0026b\u003e"`, `got "***"`},
		"short":       {secret("stringData", "on"), `configuration "on" is on, not once`, `configuration "***" is ***, not once`},
		"within":      {secret("stringData", "ab"), "ab cab abab (ab)", "*** cab abab (***)"},
		"list":        {secret("stringData", []any{"hunter2"}), `got Value:[]interface {}{"hunter2"}`, `got Value:[]interface {}{"***"}`},
		"map":         {secret("stringData", map[string]any{"key1": "hunter2"}), `got Value:map{"key1":"hunter2"}`, `got Value:map{"***":"***"}`},
		"no map":      {&unstructured.Unstructured{Object: map[string]any{"kind": "Secret", "apiVersion": "v1", "data": "hunter2"}}, "data: hunter2", "data: ***"},
		"no secret":   {&unstructured.Unstructured{Object: map[string]any{"kind": "ConfigMap", "apiVersion": "v1", "data": map[string]any{"a": "visible"}}}, "a visible", "a visible"},
		"other group": {&unstructured.Unstructured{Object: map[string]any{"kind": "Secret", "apiVersion": "x.io/v1", "data": map[string]any{"a": "visible"}}}, "a visible", "a visible"},
		"empty value": {secret("stringData", ""), "nothing here", "nothing here"},
		"null":        {secret("stringData", nil), "<nil> here", "<nil> here"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := MaskText(tt.text, tt.u); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestF45_MaskError(t *testing.T) {
	secret := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "data": map[string]any{"password": "aHVudGVyMg=="},
	}}
	cause := errors.New("cause")
	status := &apierrors.StatusError{ErrStatus: metav1.Status{
		Reason: metav1.StatusReasonInvalid, Code: 422, Message: "bad value hunter2",
		Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Message: "hunter2", Field: "data.password"}}},
	}}
	err := MaskError(fmt.Errorf("applying: %w: %w", cause, status), secret)

	if !errors.Is(err, cause) {
		t.Error("errors.Is does not find the cause any more")
	}
	if !apierrors.IsInvalid(err) {
		t.Error("the reason is lost")
	}
	var got apierrors.APIStatus
	if !errors.As(err, &got) {
		t.Fatal("errors.As does not find the API status")
	}
	if cause := got.Status().Details.Causes[0]; cause.Field != "data.password" || cause.Message != Mask {
		t.Errorf("cause = %+v", cause)
	}
	for _, text := range []string{err.Error(), got.Status().Message, fmt.Sprintf("%v %+v %s", err, err, err)} {
		if strings.Contains(text, "hunter2") || !strings.Contains(text, Mask) {
			t.Errorf("not masked: %s", text)
		}
	}
	if errors.Unwrap(err) != nil {
		t.Error("the original can be unwrapped")
	}
	if status.ErrStatus.Details.Causes[0].Message != "hunter2" {
		t.Error("the original was modified")
	}
	if plain := errors.New("nothing to hide"); MaskError(plain, secret) != plain { //nolint:errorlint // it must be the very same error
		t.Error("an error without a secret was not left as it is")
	}
	if MaskError(nil, secret) != nil {
		t.Error("no error became one")
	}
}

// Whatever a value looks like, a message that quotes it does not show it.
func FuzzMaskText(f *testing.F) {
	f.Add("hunter2", "before ", " after")
	f.Add("a\nbcdef", "{", "}")
	f.Fuzz(func(t *testing.T, value, before, after string) {
		if len(value) < shortValue || strings.TrimSpace(value) == "" || strings.Contains(Mask+before+after, value) {
			return
		}
		secret := &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "Secret", "stringData": map[string]any{"x": value},
		}}
		for _, text := range []string{value, fmt.Sprintf("%q", value), base64.StdEncoding.EncodeToString([]byte(value))} {
			got := MaskText(before+"\x00"+text+"\x00"+after, secret)
			if !strings.Contains(value, "\x00") && strings.Contains(got, "\x00"+text+"\x00") {
				t.Fatalf("%q is shown in %q", value, got)
			}
		}
	})
}
