// Runs PixelMed's SR validator over many files in one process: its templates take seconds to load.
//
// Its stylesheet of six megabytes is compiled once for each machine: the compiled one is kept in the folder that the
// first argument names. Of a file's time nine tenths went into reading and indexing the context groups (a megabyte of
// XML) anew for each template that names one. They are the same for every file, so they are parsed once, and once for a
// file indexed: all sources have addresses, by which the JDK finds again what it has loaded. Every other document is
// left to the validator: it writes what a file's first pass has found into one and reads it back in the second.

import com.pixelmed.validate.DicomSRValidator;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.ObjectInputStream;
import java.io.ObjectOutputStream;
import java.lang.reflect.Field;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.security.GeneralSecurityException;
import java.security.MessageDigest;
import java.util.Arrays;
import java.util.HexFormat;
import javax.xml.transform.ErrorListener;
import javax.xml.transform.Source;
import javax.xml.transform.Templates;
import javax.xml.transform.Transformer;
import javax.xml.transform.TransformerConfigurationException;
import javax.xml.transform.TransformerException;
import javax.xml.transform.TransformerFactory;
import javax.xml.transform.URIResolver;
import javax.xml.transform.dom.DOMResult;
import javax.xml.transform.dom.DOMSource;
import javax.xml.transform.stream.StreamSource;

public class ValidateMany {
    private static final String CONTEXT_GROUPS = "DicomContextGroupsSource.xml";
    private static final String ADDRESS = "http://pixelmed/";
    private static Path folder;

    public static void main(String[] arguments) throws Exception {
        folder = Path.of(arguments[0]);
        Thread.currentThread().setContextClassLoader(ValidateMany.class.getClassLoader());
        System.setProperty("javax.xml.transform.TransformerFactory", KeepsStylesheets.class.getName());
        DicomSRValidator validator = new DicomSRValidator();
        for (Field field : DicomSRValidator.class.getDeclaredFields()) {
            if (Transformer.class.isAssignableFrom(field.getType())) {
                field.setAccessible(true);
                Transformer transformer = (Transformer) field.get(validator);
                transformer.setURIResolver(new KeepsContextGroups(transformer.getURIResolver()));
            }
        }
        for (String file : Arrays.asList(arguments).subList(1, arguments.length)) {
            System.out.println("FILE " + file);
            System.out.println(validator.validate(file));
        }
    }

    private static class KeepsContextGroups implements URIResolver {
        private final URIResolver validators;
        private Source kept;

        KeepsContextGroups(URIResolver validators) {
            this.validators = validators;
        }

        public Source resolve(String href, String base) throws TransformerException {
            if (!href.endsWith(CONTEXT_GROUPS)) {
                return validators.resolve(href, base);
            }
            if (kept == null) {
                Source read = validators.resolve(href, base);
                DOMResult document = new DOMResult();
                TransformerFactory.newInstance().newTransformer().transform(read, document);
                kept = new DOMSource(document.getNode(), ADDRESS + CONTEXT_GROUPS);
            }
            return kept;
        }
    }

    // The JDK's own factory, but for what it has compiled before: by the sheet's digest and the version of Java.
    public static class KeepsStylesheets extends TransformerFactory {
        private final TransformerFactory own = TransformerFactory.newDefaultInstance();

        public Transformer newTransformer(Source sheet) throws TransformerConfigurationException {
            Transformer made = newTemplates(sheet).newTransformer();
            made.setURIResolver(own.getURIResolver());
            return made;
        }

        public Templates newTemplates(Source sheet) throws TransformerConfigurationException {
            try (InputStream stream = ((StreamSource) sheet).getInputStream()) {
                byte[] text = stream.readAllBytes();
                Path kept = folder.resolve(nameOf(text));
                if (Files.exists(kept)) {
                    try (ObjectInputStream in = new ObjectInputStream(Files.newInputStream(kept))) {
                        return (Templates) in.readObject();
                    }
                }
                Templates made = own.newTemplates(new StreamSource(new ByteArrayInputStream(text), ADDRESS));
                keep(made, kept);
                return made;
            } catch (IOException | GeneralSecurityException | ClassNotFoundException error) {
                throw new TransformerConfigurationException(error);
            }
        }

        private static String nameOf(byte[] text) throws GeneralSecurityException {
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            digest.update((ADDRESS + System.getProperty("java.runtime.version")).getBytes());
            return HexFormat.of().formatHex(digest.digest(text));
        }

        private static void keep(Templates made, Path place) throws IOException {
            Files.createDirectories(folder);
            Path part = Files.createTempFile(folder, "part", "");
            try (ObjectOutputStream out = new ObjectOutputStream(Files.newOutputStream(part))) {
                out.writeObject(made);
            }
            Files.move(part, place, StandardCopyOption.ATOMIC_MOVE);
        }

        public Transformer newTransformer() throws TransformerConfigurationException {
            return own.newTransformer();
        }

        public Source getAssociatedStylesheet(Source source, String media, String title, String charset)
                throws TransformerConfigurationException {
            return own.getAssociatedStylesheet(source, media, title, charset);
        }

        public void setURIResolver(URIResolver resolver) {
            own.setURIResolver((href, base) -> {
                Source found = resolver.resolve(href, base);
                if (found != null && found.getSystemId() == null) {
                    found.setSystemId(ADDRESS + href);
                }
                return found;
            });
        }

        public URIResolver getURIResolver() {
            return own.getURIResolver();
        }

        public void setFeature(String name, boolean value) throws TransformerConfigurationException {
            own.setFeature(name, value);
        }

        public boolean getFeature(String name) {
            return own.getFeature(name);
        }

        public void setAttribute(String name, Object value) {
            own.setAttribute(name, value);
        }

        public Object getAttribute(String name) {
            return own.getAttribute(name);
        }

        public void setErrorListener(ErrorListener listener) {
            own.setErrorListener(listener);
        }

        public ErrorListener getErrorListener() {
            return own.getErrorListener();
        }
    }
}
