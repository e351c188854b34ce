package charts

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// kubernetes is the module that has the definitions of all objects. Nothing is compiled of it.
const kubernetes = "k8s.io/kubernetes@v1.34.2"

// schemas writes a JSON schema for each kind of object of the chart into a folder, and returns it. The files have the
// names that kubeconform looks for. They are made of the OpenAPI definitions of Kubernetes.
func schemas(t *testing.T) string {
	t.Helper()
	cmd := exec.Command("go", "mod", "download", "-json", kubernetes)
	cmd.Dir = t.TempDir() // no module of this project needs it
	out, err := cmd.Output()
	var module struct{ Dir, Error string }
	if jsonErr := json.Unmarshal(out, &module); jsonErr != nil || err != nil {
		t.Skipf("skipped: it needs %s, which cannot be downloaded: %v %s", kubernetes, err, module.Error)
	}
	b, err := os.ReadFile(filepath.Join(module.Dir, "api", "openapi-spec", "swagger.json"))
	if err != nil {
		t.Fatal(err)
	}
	var api struct {
		Definitions map[string]map[string]any `json:"definitions"`
	}
	if err := json.Unmarshal(b, &api); err != nil {
		t.Fatal(err)
	}
	for _, d := range api.Definitions {
		strict(d)
	}
	// These can also be numbers.
	for name, number := range map[string]string{
		"io.k8s.apimachinery.pkg.util.intstr.IntOrString": "integer",
		"io.k8s.apimachinery.pkg.api.resource.Quantity":   "number",
	} {
		api.Definitions[name] = map[string]any{"type": []string{"string", number}}
	}
	dir := t.TempDir()
	for name, d := range api.Definitions {
		if file := fileOf(d); file != "" {
			b, err := json.Marshal(map[string]any{"$ref": "#/definitions/" + name, "definitions": api.Definitions})
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, file), b, 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// strict makes a definition refuse fields that it does not name.
func strict(d map[string]any) {
	if _, ok := d["properties"]; ok && d["additionalProperties"] == nil {
		d["additionalProperties"] = false
	}
}

// fileOf is where kubeconform looks for the schema of a kind, for example statefulset-apps-v1.json. It is empty for
// what the chart does not have.
func fileOf(d map[string]any) string {
	all, _ := d["x-kubernetes-group-version-kind"].([]any)
	if len(all) != 1 { // such as DeleteOptions, which is no object
		return ""
	}
	kind, _ := all[0].(map[string]any)
	group, _, _ := strings.Cut(kind["group"].(string), ".")
	name := kind["kind"].(string)
	if _, ok := kinds[name]; !ok {
		return ""
	}
	if group != "" {
		name += "-" + group
	}
	return strings.ToLower(name + "-" + kind["version"].(string) + ".json")
}
