// An assembly as an operator brings it: a manager of environments in the style of the older .NET host.
using System;
using System.Collections.Generic;

namespace Example.Environments
{
    public class VenvManager
    {
        private readonly List<string> names = new List<string>();

        public VenvManager(string root) { Root = root; }

        public static int Made { get; set; }
        public string Root { get; set; }
        public int Count { get { return names.Count; } }

        public string Create(string name)
        {
            if (names.Contains(name)) throw new InvalidOperationException("taken: " + name);
            names.Add(name);
            Made++;
            return Root + "/" + name;
        }

        public string[] Names() { return names.ToArray(); }

        public void Delete(string name)
        {
            try
            {
                if (!names.Remove(name)) throw new KeyNotFoundException("absent: " + name);
            }
            catch (KeyNotFoundException error)
            {
                throw new ArgumentException("cannot delete", error);
            }
        }

        public int Apply(Func<string, int> function) { return function(Root); }
    }
}
