// The first program in C#: an expression, an object and its attributes, an error.
//
//   venvd start http --json                # prints the URL and the token
//   VENVD_TOKEN=… dotnet run First.cs -- http://127.0.0.1:5678     (.NET 10; earlier: as the Program.cs of a project)
//
// It uses no package, and Mono's compiler takes it too:
//   mcs -r:System.Net.Http -r:System.Runtime.Serialization -r:System.Xml -r:System.Xml.Linq First.cs && mono First.exe URL

using System;
using System.Net.Http;
using System.Net.Http.Headers;
using System.Runtime.Serialization.Json;
using System.Text;
using System.Threading.Tasks;
using System.Xml;
using System.Xml.Linq;

static class First
{
    static readonly HttpClient Client = new HttpClient();

    // Fields of the answer are elements: answer.Element("value").Value.
    static async Task<XElement> Call(string path, string json)
    {
        var response = await Client.PostAsync(path, new StringContent(json, Encoding.UTF8, "application/json"));
        var body = await response.Content.ReadAsByteArrayAsync();
        var answer = XElement.Load(JsonReaderWriterFactory.CreateJsonReader(body, XmlDictionaryReaderQuotas.Max));
        if (!response.IsSuccessStatusCode)
            throw new Exception(answer.Element("code").Value + ": " + answer.Element("detail").Value);
        return answer;
    }

    static async Task Run(string url)
    {
        Client.BaseAddress = new Uri(url);
        var token = Environment.GetEnvironmentVariable("VENVD_TOKEN");
        Client.DefaultRequestHeaders.Authorization = new AuthenticationHeaderValue("Bearer", token);

        var sum = await Call("/api/eval", "{\"expression\": \"sum(n)\", \"locals\": {\"n\": [1, 2, 3]}}");
        Console.WriteLine("sum " + sum.Element("value").Value);

        var module = (await Call("/api/import", "{\"moduleName\": \"fractions\"}")).Element("handleId").Value;
        var created = await Call("/api/create",
            "{\"moduleHandleId\": \"" + module + "\", \"className\": \"Fraction\", \"args\": [6, 8]}");
        var fraction = created.Element("handleId").Value;
        var denominator = await Call("/api/getattr",
            "{\"handleId\": \"" + fraction + "\", \"attributeName\": \"denominator\"}");
        Console.WriteLine("denominator " + denominator.Element("value").Value);
        var whole = await Call("/api/call",
            "{\"handleId\": \"" + fraction + "\", \"methodName\": \"limit_denominator\", \"args\": [1]}");
        var rounded = whole.Element("handleId").Value;
        var text = await Call("/api/call", "{\"handleId\": \"" + rounded + "\", \"methodName\": \"__str__\"}");
        Console.WriteLine("rounded " + text.Element("value").Value);
        await Call("/api/dispose", "{\"handleIds\": [\"" + rounded + "\", \"" + fraction + "\", \"" + module + "\"]}");

        try
        {
            await Call("/api/eval", "{\"expression\": \"1 / 0\"}");
        }
        catch (Exception error)
        {
            Console.WriteLine(error.Message);
        }
    }

    static void Main(string[] args)
    {
        Run(args[0]).GetAwaiter().GetResult();
    }
}
