// Package suite is the Gateway API's conformance suite, as a program of its own.
package suite

import (
	"testing"

	"sigs.k8s.io/gateway-api/conformance"
)

// TestConformance runs what the command line asks for.
func TestConformance(t *testing.T) {
	conformance.RunConformance(t)
}
