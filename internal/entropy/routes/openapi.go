package routes

import (
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"

	"concord/internal/entropy/api"
)

const openAPIPath = "/openapi.json"

type object = map[string]any

func (h *handler) openAPI(w http.ResponseWriter, _ *http.Request, _ url.Values) error {
	writeJSON(w, http.StatusOK, openAPI())
	return nil
}

// openAPI is the contract as OpenAPI 3, made of the routes and of the types that they answer with.
func openAPI() object {
	fails := func(doc string) object {
		return object{"description": doc, "content": jsonContent(reflect.TypeFor[api.Failure]())}
	}
	paths := object{}
	for path, r := range routes {
		op := object{
			"summary":     r.summary,
			"description": accessDoc[r.access],
			"operationId": strings.ReplaceAll(strings.TrimPrefix(path, "/"), "-", "_"),
			"responses": object{
				strconv.Itoa(r.code): success(r),
				"400":                fails("A parameter is missing, malformed or unknown"),
				"401":                fails("No valid user, with authentication on"),
				"403":                fails("No administrator, with authentication on"),
				"404":                fails("Anti-entropy is off"),
				"500":                fails("It failed"),
			},
		}
		var params []any
		for _, p := range r.params {
			params = append(params, object{
				"name": p.name, "in": "query", "required": p.required, "description": p.doc,
				"schema": object{"type": p.kind},
			})
		}
		if params != nil {
			op["parameters"] = params
		}
		paths[api.Base+path] = object{strings.ToLower(r.method): op}
	}
	return object{
		"openapi": "3.0.3",
		"info": object{
			"title": "Anti-entropy", "version": "1",
			"description": "Finds and repairs differences between the replicas of shards.",
		},
		"paths": paths,
	}
}

var accessDoc = map[access]string{
	everyUser: "With authentication on, for every user. What is of databases that the user may not read is left out.",
	managers:  "With authentication on, for users with the permission ManageShard.",
	admins:    "With authentication on, for users with the permissions ManageShard, ReadData and DropData.",
}

func success(r route) object {
	out := object{"description": http.StatusText(r.code)}
	if r.answer != nil {
		out["content"] = jsonContent(reflect.TypeOf(r.answer))
	}
	return out
}

func jsonContent(t reflect.Type) object {
	return object{"application/json": object{"schema": schema(t)}}
}

// schema is a type as it is written in JSON.
func schema(t reflect.Type) object {
	switch t.Kind() {
	case reflect.Struct:
		props, required := object{}, []string{}
		for i := range t.NumField() {
			name, opts, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			props[name] = schema(t.Field(i).Type)
			if opts != "omitempty" {
				required = append(required, name)
			}
		}
		return object{"type": "object", "properties": props, "required": required}
	case reflect.Slice:
		return object{"type": "array", "items": schema(t.Elem())}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	}
	return object{"type": "string"}
}
