package helm

import (
	"fmt"

	v2 "github.com/fluxcd/helm-controller/api/v2"
	"github.com/fluxcd/pkg/ssa/jsondiff"
)

// checkIgnore refuses spec.driftDetection.ignore when a selector of it cannot be used.
func checkIgnore(hr *v2.HelmRelease) error {
	if _, err := jsondiff.CompileIgnoreRules(ignoreRules(hr)); err != nil {
		return fmt.Errorf("spec.driftDetection.ignore: %w", err)
	}
	return nil
}

// ignoreRules returns spec.driftDetection.ignore in the form in which it is applied.
func ignoreRules(hr *v2.HelmRelease) []jsondiff.IgnoreRule {
	var rules []jsondiff.IgnoreRule
	var everywhere []string // of rules without a target, of which the library keeps only the last
	for _, rule := range hr.GetDriftDetection().Ignore {
		t := rule.Target
		if t == nil {
			everywhere = append(everywhere, rule.Paths...)
			continue
		}
		rules = append(rules, jsondiff.IgnoreRule{Paths: rule.Paths, Selector: &jsondiff.Selector{
			Group: t.Group, Version: t.Version, Kind: t.Kind, Name: t.Name, Namespace: t.Namespace,
			AnnotationSelector: t.AnnotationSelector, LabelSelector: t.LabelSelector,
		}})
	}
	if len(everywhere) > 0 {
		rules = append(rules, jsondiff.IgnoreRule{Paths: everywhere})
	}
	return rules
}
