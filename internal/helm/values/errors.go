package values

import (
	"fmt"

	v2 "github.com/fluxcd/helm-controller/api/v2"
)

// Cause is what is wrong with values, and with it what will mend it.
type Cause string

const (
	// MissingObject: the ConfigMap or Secret is not there. It may yet come, so it is worth a watch.
	MissingObject Cause = "MissingObject"
	// MissingKey: it is there and has no such key.
	MissingKey Cause = "MissingKey"
	// InvalidYAML: what it holds, or what is inline, is no YAML map.
	InvalidYAML Cause = "InvalidYAML"
	// InvalidPath: the targetPath cannot be set, whatever the value. Only a change of the HelmRelease mends that.
	InvalidPath Cause = "InvalidPath"
	// InvalidValue: the value cannot be set at the targetPath.
	InvalidValue Cause = "InvalidValue"
	// InvalidReference: the reference itself names nothing that may be read.
	InvalidReference Cause = "InvalidReference"
	// TooLarge: the values would need more memory than a release may.
	TooLarge Cause = "TooLarge"
)

// Error is what is wrong with the values of a HelmRelease. It never quotes what a Secret holds.
type Error struct {
	Cause Cause
	// Namespace and Ref are the reference; Ref.Name is empty when it is about what is inline.
	Namespace string
	Ref       v2.ValuesReference
	// Detail says more, where there is more to say.
	Detail string
}

// at says which reference an error is about.
func (e *Error) at(namespace string, ref v2.ValuesReference) *Error {
	e.Namespace, e.Ref = namespace, ref
	return e
}

func (e *Error) Error() string {
	from := "spec.values"
	if e.Ref.Name != "" {
		from = fmt.Sprintf("%s '%s/%s'", e.Ref.Kind, e.Namespace, e.Ref.Name)
	}
	key := e.Ref.GetValuesKey()
	switch e.Cause {
	case MissingObject:
		return "could not find " + from
	case MissingKey:
		return fmt.Sprintf("missing key '%s' in %s", key, from)
	case InvalidPath:
		return fmt.Sprintf("invalid targetPath '%s' for %s: %s", e.Ref.TargetPath, from, e.Detail)
	case InvalidValue:
		return fmt.Sprintf("unable to set the value of key '%s' in %s at targetPath '%s': %s", key, from, e.Ref.TargetPath, e.Detail)
	case InvalidReference:
		return "invalid valuesFrom: " + e.Detail
	case InvalidYAML, TooLarge:
		if e.Ref.Name == "" {
			return fmt.Sprintf("unable to use %s: %s", from, e.Detail)
		}
		return fmt.Sprintf("unable to use the values of key '%s' in %s: %s", key, from, e.Detail)
	default:
		panic("an Error without a cause: " + string(e.Cause))
	}
}
