// Prints what kstatus says of objects: JSON objects on standard input, one line of JSON for each on standard output.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

type answer struct {
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var object map[string]any
		if err := in.Decode(&object); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			fail(err)
		}
		// json.Decode makes floats of all numbers; Kubernetes' own decoder makes integers of integers.
		text, err := json.Marshal(object)
		if err != nil {
			fail(err)
		}
		u := &unstructured.Unstructured{}
		if err := u.UnmarshalJSON(text); err != nil {
			fail(err)
		}
		found, err := status.Compute(u)
		if err != nil {
			fail(err)
		}
		if err := out.Encode(answer{string(found.Status), found.Message}); err != nil {
			fail(err)
		}
	}
}

func fail(err error) {
	fmt.Fprintf(os.Stderr, "kstatus: %v\n", err)
	os.Exit(1)
}
