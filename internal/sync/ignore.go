package sync

import (
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/fluxcd/pkg/ssa/jsondiff"
)

// ignoreRules returns spec.ignore in the form in which it is applied. The error names the selector that cannot be used.
func ignoreRules(ks *kustomizev1.Kustomization) ([]jsondiff.IgnoreRule, error) {
	var rules []jsondiff.IgnoreRule
	var everywhere []string // of rules without a target, of which the library keeps only the last
	for _, rule := range ks.Spec.Ignore {
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
	_, err := jsondiff.CompileIgnoreRules(rules)
	return rules, err
}
