// Package charts tests the Helm chart in deploy/helm with helm and kubeconform. They are a module of their own,
// because they bring much of Kubernetes.
package charts

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const chart = "../../deploy/helm"

// variants are values that change what the chart has.
var variants = map[string][]string{
	"default": nil,
	"zones": {"data.zones={a,b,c}", "data.replicas=1", "antiAffinity=hard", "database.name=plant",
		"database.replication=3"},
	"secured": {"tls.enabled=true", "tls.secretName=tls", "auth.enabled=true", "auth.adminSecret=admin",
		"existingSecret=shared", "serviceMonitor.enabled=true", "serviceMonitor.labels.release=prometheus"},
}

// tool runs a program of this module, and returns what it prints.
func tool(t *testing.T, input []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("go", append([]string{"tool"}, args...)...)
	cmd.Stdin = bytes.NewReader(input)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out.Bytes(), said.Bytes())
	}
	return out.Bytes()
}

// set are the flags for values.
func set(values []string) []string {
	var flags []string
	for _, v := range values {
		flags = append(flags, "--set", v)
	}
	return flags
}

func rendered(t *testing.T, values []string) []byte {
	t.Helper()
	args := []string{"helm", "template", "test", chart, "--kube-version", "1.30.0"}
	return tool(t, nil, append(args, set(values)...)...)
}

func TestLint(t *testing.T) {
	t.Parallel()
	for name, values := range variants {
		t.Run(name, func(t *testing.T) {
			out := tool(t, nil, append([]string{"helm", "lint", "--strict", chart}, set(values)...)...)
			if bytes.Contains(out, []byte("[WARNING]")) {
				t.Errorf("helm warns:\n%s", out)
			}
		})
	}
}

// kinds are the types of Kubernetes for the objects of the chart.
var kinds = map[string]func() any{
	"PodDisruptionBudget": func() any { return new(policyv1.PodDisruptionBudget) },
	"Secret":              func() any { return new(corev1.Secret) },
	"Service":             func() any { return new(corev1.Service) },
	"StatefulSet":         func() any { return new(appsv1.StatefulSet) },
}

// No object has a field that Kubernetes does not know, or one of another type.
func TestObjectsHaveTheFieldsOfKubernetes(t *testing.T) {
	t.Parallel()
	for name, values := range variants {
		found := map[string]bool{}
		for _, object := range bytes.Split(rendered(t, values), []byte("\n---\n")) {
			var about metav1.TypeMeta
			if err := yaml.Unmarshal(object, &about); err != nil {
				t.Fatalf("%s: %v\n%s", name, err, object)
			}
			found[about.Kind] = true
			if about.Kind == "ServiceMonitor" {
				continue // a type of the Prometheus operator
			}
			of, ok := kinds[about.Kind]
			if !ok {
				t.Errorf("%s: no test knows the kind %q", name, about.Kind)
			} else if err := yaml.UnmarshalStrict(object, of()); err != nil {
				t.Errorf("%s: %v\n%s", name, err, object)
			}
		}
		if !found["StatefulSet"] || !found["PodDisruptionBudget"] {
			t.Errorf("%s: there are only %v", name, found)
		}
	}
}

// TestObjectsAreThoseOfKubernetes runs kubeconform.
func TestObjectsAreThoseOfKubernetes(t *testing.T) {
	t.Parallel()
	location := filepath.Join(schemas(t), "{{.ResourceKind}}{{.KindSuffix}}.json")
	check := []string{"kubeconform", "-strict", "-summary", "-skip", "ServiceMonitor", "-schema-location", location}
	for name, values := range variants {
		t.Run(name, func(t *testing.T) {
			t.Logf("%s", tool(t, rendered(t, values), check...))
		})
	}
	t.Run("broken", func(t *testing.T) {
		for _, broken := range []string{"replicas: many", "replica: 3"} {
			object := "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: a}\n" +
				"spec: {selector: {}, serviceName: a, template: {}, " + broken + "}\n"
			cmd := exec.Command("go", append([]string{"tool"}, check...)...)
			cmd.Stdin = strings.NewReader(object)
			if out, err := cmd.CombinedOutput(); err == nil {
				t.Errorf("%s is valid:\n%s", broken, out)
			}
		}
	})
}

// Each variant has what it is for.
func TestVariants(t *testing.T) {
	t.Parallel()
	for name, wants := range map[string][]string{
		"default": {
			"kind: PodDisruptionBudget", "topologyKey: topology.kubernetes.io/zone", "runAsNonRoot: true",
			"test-concord-meta-0.test-concord-meta.default.svc.cluster.local:8091,",
			"path: /ping, port: http, scheme: HTTP}",
		},
		"zones": {
			"name: test-concord-data-a\n", "name: test-concord-data-c\n", `value: "az=b"`,
			"requiredDuringSchedulingIgnoredDuringExecution", `{name: INFLUXDB_DB, value: "plant"}`,
		},
		"secured": {
			"secretName: tls", "scheme: HTTPS", "kind: ServiceMonitor", "release: prometheus",
			"{name: shared, key: secret}",
			"INFLUXDB_CLUSTER_HTTPS_CA", "{name: admin, key: password}",
		},
	} {
		text := string(rendered(t, variants[name]))
		for _, want := range wants {
			if !strings.Contains(text, want) {
				t.Errorf("%s: there is no %s", name, want)
			}
		}
		if name == "secured" && strings.Contains(text, "kind: Secret\n") {
			t.Error("a secret is made beside the one that exists")
		}
	}
}
