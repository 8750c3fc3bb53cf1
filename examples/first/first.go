// The first program in Go: an expression, an object and its attributes, an error.
//
//	venvd start http --json                # prints the URL and the token
//	VENVD_TOKEN=… go run examples/first/first.go http://127.0.0.1:5678
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"os"
)

type object map[string]any

// answer has the fields of every response that this program reads, those of errors included.
type answer struct {
	Value    any
	HandleID string `json:"handleId"`
	Code     string
	Detail   string
}

func call(path string, body object) (answer, error) {
	var found answer
	text, err := json.Marshal(body)
	if err != nil {
		return found, err
	}
	request, err := http.NewRequest(http.MethodPost, os.Args[1]+path, bytes.NewReader(text))
	if err != nil {
		return found, err
	}
	request.Header.Set("Authorization", "Bearer "+os.Getenv("VENVD_TOKEN"))
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return found, err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&found); err != nil {
		return found, err
	}
	if response.StatusCode != http.StatusOK {
		return found, fmt.Errorf("%s: %s", found.Code, found.Detail)
	}
	return found, nil
}

func must(path string, body object) answer {
	found, err := call(path, body)
	if err != nil {
		log.Fatal(err)
	}
	return found
}

func main() {
	sum := must("/api/eval", object{"expression": "sum(n)", "locals": object{"n": []int{1, 2, 3}}})
	fmt.Println("sum", sum.Value)

	module := must("/api/import", object{"moduleName": "fractions"})
	fraction := must("/api/create", object{"moduleHandleId": module.HandleID, "className": "Fraction", "args": []int{6, 8}})
	denominator := must("/api/getattr", object{"handleId": fraction.HandleID, "attributeName": "denominator"})
	fmt.Println("denominator", denominator.Value)
	rounded := must("/api/call", object{"handleId": fraction.HandleID, "methodName": "limit_denominator", "args": []int{1}})
	text := must("/api/call", object{"handleId": rounded.HandleID, "methodName": "__str__"})
	fmt.Println("rounded", text.Value)
	must("/api/dispose", object{"handleIds": []string{rounded.HandleID, fraction.HandleID, module.HandleID}})

	if _, err := call("/api/eval", object{"expression": "1 / 0"}); err != nil {
		fmt.Println(err)
	}
}
