package object

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Mask stands for a value that must not be shown.
const Mask = "***"

// shortValue is the length below which a Secret's value is masked only where it stands alone: "1" or "on" as a value must
// not turn every message into asterisks, and a password that short is no secret.
const shortValue = 4

// MaskError returns err without the values of those objects that are Secrets. The API server quotes them when it refuses
// an object: `.data.password: expected string, got &value.valueUnstructured{Value:12345}`.
//
// An error that quotes none is returned as it is. Otherwise errors.Is works on the result as on err, and of the chain
// only an API status, masked too, can be had with errors.As: the rest could still tell.
func MaskError(err error, objects ...*unstructured.Unstructured) error {
	if err == nil {
		return nil
	}
	values := secretValues(objects)
	text := err.Error()
	masked := maskText(text, values)
	if masked == text {
		return err
	}
	out := &maskedError{text: masked, original: err}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		out.status = maskStatus(status, values)
	}
	return out
}

// MaskText returns text without the values of those objects that are Secrets.
func MaskText(text string, objects ...*unstructured.Unstructured) string {
	return maskText(text, secretValues(objects))
}

type maskedError struct {
	text     string
	original error
	status   *apierrors.StatusError
}

func (e *maskedError) Error() string { return e.text }

func (e *maskedError) Is(target error) bool { return errors.Is(e.original, target) }

func (e *maskedError) As(target any) bool {
	return e.status != nil && errors.As(e.status, target)
}

func maskStatus(err apierrors.APIStatus, values []string) *apierrors.StatusError {
	status := err.Status()
	status.Message = maskText(status.Message, values)
	if status.Details != nil {
		status.Details = status.Details.DeepCopy()
		for i, cause := range status.Details.Causes {
			status.Details.Causes[i].Message = maskText(cause.Message, values)
		}
	}
	return &apierrors.StatusError{ErrStatus: status}
}

func maskText(text string, values []string) string {
	for _, v := range values {
		if len(v) < shortValue {
			text = maskAlone(text, v)
			continue
		}
		text = strings.ReplaceAll(text, v, Mask)
	}
	return text
}

// maskAlone replaces value where no letter or digit touches it.
func maskAlone(text, value string) string {
	var out strings.Builder
	for at := 0; ; {
		i := strings.Index(text[at:], value)
		if i < 0 {
			out.WriteString(text[at:])
			return out.String()
		}
		begin, end := at+i, at+i+len(value)
		before, _ := utf8.DecodeLastRuneInString(text[:begin])
		after, _ := utf8.DecodeRuneInString(text[end:])
		out.WriteString(text[at:begin])
		if isWord(before) || isWord(after) {
			out.WriteString(value)
		} else {
			out.WriteString(Mask)
		}
		at = end
	}
}

func isWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) }

// secretValues returns every form in which a message can hold a value of these Secrets, longest first, so that no
// value is cut in two by a shorter one within it.
func secretValues(objects []*unstructured.Unstructured) []string {
	var values []string
	for _, u := range objects {
		if u == nil || u.GetKind() != "Secret" || u.GroupVersionKind().Group != "" {
			continue
		}
		for _, field := range []string{"data", "stringData"} {
			data, ok := u.Object[field].(map[string]any)
			if !ok {
				values = append(values, formsWithin(u.Object[field])...)
				continue
			}
			for _, v := range data {
				values = append(values, formsWithin(v)...)
			}
		}
	}
	slices.SortFunc(values, func(a, b string) int {
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b))
	})
	return slices.Compact(values)
}

// formsWithin returns the forms of a value and, where a list or a map was written by mistake, of all that is in it: the API
// server quotes it in a form of its own.
func formsWithin(v any) []string {
	out := forms(v)
	switch v := v.(type) {
	case []any:
		for _, entry := range v {
			out = append(out, formsWithin(entry)...)
		}
	case map[string]any:
		for key, entry := range v {
			out = append(append(out, forms(key)...), formsWithin(entry)...)
		}
	}
	return out
}

// forms returns a value as written, decoded from and encoded to base64, line by line, and each of these as it looks
// inside quotes.
func forms(v any) []string {
	if v == nil {
		return nil
	}
	plain := []string{fmt.Sprint(v)}
	if decoded, err := base64.StdEncoding.DecodeString(plain[0]); err == nil {
		plain = append(plain, string(decoded))
	}
	plain = append(plain, base64.StdEncoding.EncodeToString([]byte(plain[0])))
	for _, p := range slices.Clone(plain) {
		if lines := strings.FieldsFunc(p, func(r rune) bool { return r == '\n' || r == '\r' }); len(lines) > 1 {
			plain = append(plain, lines...)
		}
	}
	var out []string
	for _, p := range plain {
		if strings.TrimSpace(p) == "" {
			continue
		}
		goQuoted := strconv.Quote(p)
		out = append(out, p, goQuoted[1:len(goQuoted)-1])
		if text, err := json.Marshal(p); err == nil {
			out = append(out, string(text[1:len(text)-1]))
		}
	}
	return out
}
