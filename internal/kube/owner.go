package kube

import (
	"github.com/cleat-dev/cleat/internal/api"
	"github.com/cleat-dev/cleat/internal/object"
)

// Owner is a kind of owner: how objects name theirs, and which of their fields count as its own.
type Owner struct {
	// Kind is what messages call an owner.
	Kind   string
	Labels object.OwnerLabels
	// Manager is the field manager that applies. With Updates, objects have fields of it also by client-side apply, and nothing
	// is cleared off them.
	Manager object.Manager
}

// Kustomizations own by server-side apply alone.
func Kustomizations() Owner {
	return Owner{
		Kind: api.KustomizationKind.Kind, Labels: object.KustomizationLabels(),
		Manager: object.Manager{Name: api.ApplyManager},
	}
}

// HelmReleases own by either way: the user chooses (spec.install.serverSideApply), and releases from before that choice
// existed go on as they are.
func HelmReleases() Owner {
	return Owner{
		Kind: api.HelmReleaseKind.Kind, Labels: object.HelmReleaseLabels(),
		Manager: object.Manager{Name: api.HelmManager, Updates: true},
	}
}
